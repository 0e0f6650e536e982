"""What TRL noted for each forward of a batch becomes one value, weighed as the loss is."""

from dpo_video.train.metrics import average_forwards


def test_a_batch_of_several_forwards_counts_once() -> None:
    noted = {
        "rewards/margins": [0.5, 1.0, 4.0],  # one value of the batch before, then two forwards
        "loss": [3.0, 5.0],
        "entropy": [0.1, 0.2],  # noted once in this batch, so it is no value of a forward
    }
    averaged = average_forwards(noted, {"rewards/margins": 1, "entropy": 1}, [2.0, 1.0])
    assert averaged == {
        "rewards/margins": [0.5, (2 * 1.0 + 1 * 4.0) / 3],
        "loss": [(2 * 3.0 + 1 * 5.0) / 3],
    }
    assert noted["rewards/margins"] == [0.5, 1.0, 4.0]
