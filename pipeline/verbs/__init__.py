"""What the command line of each verb takes; `commands/` is what they do. Light until a verb is called."""
