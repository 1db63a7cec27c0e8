"""One of several processes that train and test on a stream: `torchrun stream_process.py FOLDER OUTPUT`.

Writes the labels of every batch over all processes; stops and goes on from a saved state after three steps.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from timm_asap.data import build_loader, load_dataset, set_epoch

STEPS, STOP = 6, 3


def main(folder, output):
    accelerator = Accelerator(cpu=True)
    data = load_dataset("parquet", folder, streaming=True, num_classes=100, shuffle_buffer=8)

    def loader(training):
        return build_loader(
            data.train if training else data.test,
            data,
            2,
            training=training,
            steps_per_epoch=STEPS,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
        )

    def gathered(batches):
        return [accelerator.gather_for_metrics((labels, images.sum(dim=(1, 2, 3)))) for images, labels in batches]

    train = loader(training=True)
    set_epoch(train, 1)
    whole = gathered(train)
    stopped = loader(training=True)
    set_epoch(stopped, 1)
    for _, _batch in zip(range(STOP), stopped, strict=False):
        pass
    state = output / f"state_{accelerator.process_index}.json"
    state.write_text(json.dumps(stopped.state_dict()))
    resumed = loader(training=True)
    resumed.load_state_dict(json.loads(state.read_text()))
    set_epoch(resumed, 1)
    rest = gathered(resumed)
    same = len(rest) == STEPS - STOP and all(
        torch.equal(labels, other_labels) and torch.equal(sums, other_sums)
        for (labels, sums), (other_labels, other_sums) in zip(rest, whole[STOP:], strict=True)
    )
    tested = [labels.tolist() for labels, _ in gathered(loader(training=False))]
    if accelerator.is_main_process:
        result = {"train": [labels.tolist() for labels, _ in whole], "same": same, "test": tested}
        (output / "result.json").write_text(json.dumps(result))
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
