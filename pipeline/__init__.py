"""Text-to-image LoRA fine-tuning that proves the adapter it hands over.

How an example flows, and which room does it:

    folder -> Manifest of Examples               data/          id = hash of content, the key of every cache
    Example -> latent mean + std, text states    data/cache     through family.encode_image / encode_text
    position -> draws (time, noise, coins)       draws          a pure function of (seed, epoch, id, purpose)
    text states -> conditioning, some null       conditioning   the null that inference will use
    latents, t, noise -> x_t, target, log-SNR    objective/     t in [0, 1], 0 = data
    x_t, t, conditioning -> prediction           families/      frozen denoiser + LoRA
    prediction, target -> loss -> step           training/      one step, one loop, every family
    adapter -> verified file, pictures, page     adapter/ evaluation/ report/

Symbols, the same everywhere:

    x_0       clean latents            [b c h w]
    noise     standard normal          [b c h w]
    x_t       alpha_t x_0 + sigma_t noise
    t         time in [0, 1]: 0 = data, 1 = noise
    log_snr   ln(alpha_t^2 / sigma_t^2)
    b c h w   batch, channels, height, width;  l d = tokens, width of the text states
"""

__version__ = "0.1.0"
