"""The benchmark of datasets measures what it says, each part in a process of its own."""

import pytest

from pipeline.__main__ import main
from pipeline.bench import data, data_many, data_table, results
from pipeline.errors import ConfigError

pytestmark = pytest.mark.unit


def test_every_part_is_measured_and_told():
    found = data.compare((24,))
    parts = found[24]
    assert list(parts) == list(data.PARTS)
    assert parts["first"].count == parts["again"].count == 24
    assert parts["cache"].count == 2  # a shard of latents and one of embeddings
    assert parts["loader"].count > 10
    ballast = b"1" * 400_000_000  # what this process takes is not what those that it starts take
    many = data_many.simulate(2000, 10**7)
    assert len(ballast) > 0
    assert list(many) == [*data_many.OF_ROWS, *data_many.OF_PLACES]
    assert many["open"].count == many["split"].count + many["buckets"].count == 2000
    assert many["split"].count == 200
    assert many["begin"].count == 10**7
    assert many["middle"].seconds > many["begin"].seconds > 0
    assert many["middle"].megabytes < 60  # one permutation of all would be 80
    everything = results.started("data", "command", "cpu", {}).with_rows(data_table.rows_of(found, many))
    page = data_table.page(everything)
    assert f"| {many['split'].seconds:.3f} s |" in page
    assert "2,000 examples" in page
    assert "| pictures | 24 |" in page
    assert f"{parts['first'].seconds:.2f} s" in page


@pytest.mark.parametrize(
    ("numbers", "said"), [((10**9,), "takes about 50000.0 GB"), ((0, 24), "--pictures 0: a dataset has at least one")]
)
def test_what_cannot_be_measured_is_said_at_once(numbers, said):
    with pytest.raises(ConfigError, match=said):
        data.compare(numbers)


def test_as_many_pictures_are_made_as_the_command_line_says(capsys):
    assert main(["bench", "data", "--pictures", "24", "--pictures", "0"]) == 2
    assert capsys.readouterr().err == "Error: --pictures 0: a dataset has at least one picture.\n"
