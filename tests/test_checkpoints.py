"""Checkpoints: small files, complete or absent."""

import pytest
import torch

from moldiff.checkpoints import PART_BYTES, CheckpointError, latest_checkpoint, read_checkpoint, write_checkpoint


def test_checkpoints_come_in_small_files_and_a_crash_leaves_the_last(tmp_path, monkeypatch):
    tensors = {f"t{k}": torch.randn(3 * 2**18) for k in range(12)}  # 3 MiB each
    write_checkpoint(tmp_path, 1, tensors, {"step": 1})
    files = list(latest_checkpoint(tmp_path).glob("part-*"))
    assert len(files) == 3
    assert all(f.stat().st_size < PART_BYTES + 2**16 for f in files)
    found, header = read_checkpoint(latest_checkpoint(tmp_path))
    assert header == {"step": 1}
    assert all(torch.equal(found[k], v) for k, v in tensors.items())

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", crash)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(tmp_path, 2, tensors, {"step": 2})
    assert read_checkpoint(latest_checkpoint(tmp_path))[1] == {"step": 1}
    write_checkpoint(tmp_path, 3, tensors, {"step": 3})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-000000003"]


@pytest.mark.parametrize("damage", ["a part is gone", "bytes of a part", "all parts are gone", "{}", "[]", "{"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    write_checkpoint(tmp_path, 1, {f"t{k}": torch.randn(3 * 2**18) for k in range(6)}, {"step": 1})
    folder = latest_checkpoint(tmp_path)
    parts = sorted(folder.glob("part-*"))
    assert len(parts) == 2
    if damage == "bytes of a part":
        content = parts[1].read_bytes()
        parts[1].write_bytes(content[:-100] + bytes(100))
    elif "gone" in damage:
        for part in parts[1 if damage.startswith("a part") else 0 :]:
            part.unlink()
    else:
        (folder / "header.json").write_text(damage)
    with pytest.raises(
        CheckpointError, match=r"checkpoint-000000001: cannot be read \(.*\); remove it: --resume takes"
    ):
        read_checkpoint(folder)
