"""The same garments from PyTorch: proof that they are the same, and how fast each of the two paints.

    python -m venv venv && venv/bin/pip install -r requirements.txt
    cargo build --release -p trainer
    venv/bin/python sampling.py --trainer ../../target/release/trainer

Both walk all of DDPM's steps with the same weights, in f32. First a garment of one seed, with the same
noise, and the two must agree on its pixels. Then batches, in turn: ours by what `trainer sample` takes
longer for three batches than for one, so that neither its start nor its trials count, PyTorch's by
the clock before and after a walk. On CUDA, PyTorch also replays its step as a graph.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from twin import HERE, NO_LABEL, UNet
from reference import Schedule, gaussian, read_weights  # twin.py knows the way to it

SEED, GARMENT, LABEL = 7, "coat", 4


class Sampling:
    """Algorithm 2 of DDPM (Ho et al. 2020) for one batch, which stays in its place on the device."""

    def __init__(self, tensors, metadata, count, label, device, graph=False):
        self.unet = UNet(tensors, metadata["config"]).to(device).requires_grad_(False)
        schedule = Schedule(metadata["schedule"], metadata["timesteps"])
        betas, alpha_bars = schedule.betas, schedule.alphas_cumprod
        before = np.concatenate([[1.0], alpha_bars[:-1]])
        sigmas = np.sqrt(betas)
        sigmas[0] = 0
        # Of each t: what makes the estimate of x_0 out of x_t and the noise, then equation 7, then sigma.
        columns = [
            1 / np.sqrt(alpha_bars),
            np.sqrt(1 / alpha_bars - 1),
            np.sqrt(before) * betas / (1 - alpha_bars),
            np.sqrt(1 - betas) * (1 - before) / (1 - alpha_bars),
            sigmas,
        ]
        self.table = torch.tensor(np.stack(columns, 1), dtype=torch.float32, device=device)
        self.labels = torch.full((count,), label, device=device)
        self.t = torch.zeros(1, dtype=torch.int64, device=device)
        self.x = torch.zeros(count, 1, 28, 28, device=device)
        self.z = torch.zeros_like(self.x)
        self.advance = self.step
        if graph:
            # What is captured must have run before, on another stream than the usual one.
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.step()
            torch.cuda.synchronize()
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                self.step()
            self.advance = captured.replay

    def step(self):
        from_x_t, from_noise, x_0_weight, x_t_weight, sigma = self.table[self.t].unbind(1)
        pred_noise = self.unet(self.x, self.t.expand(len(self.x)), self.labels)
        x_0 = (from_x_t * self.x - from_noise * pred_noise).clamp(-1, 1)
        self.x.copy_(x_0_weight * x_0 + x_t_weight * self.x + sigma * self.z)

    def walk(self, noise=lambda state, t: state.normal_()):
        """The finished pixels; `noise` fills a state with that of a t, x_T's for the number of steps."""
        noise(self.x, len(self.table))
        for t in reversed(range(len(self.table))):
            self.t.fill_(t)
            noise(self.z, t)
            self.advance()
        return (self.x * 127.5 + 127.5).round().clamp(0, 255).byte().cpu().numpy()


def ours(arguments, count, out):
    """Paints with the trainer; the pixels, and the seconds it took."""
    command = [*arguments.trainer, "sample", "--weights", str(arguments.weights), "--count", str(count)]
    command += ["--seed", str(SEED), "--garment", GARMENT, "--device", arguments.device, "--out", str(out)]
    begun = time.perf_counter()
    subprocess.run(
        command, check=True, stderr=subprocess.DEVNULL,
        env=dict(os.environ, RAYON_NUM_THREADS=str(arguments.threads)),
    )
    return np.load(out), time.perf_counter() - begun


def seeded(state, t):
    state.copy_(torch.from_numpy(gaussian(SEED, 0, 0, t)[0]))


def main():
    index = HERE.parent.parent / "web" / "weights" / "index.json"
    shipped = index.with_name(json.loads(index.read_text())["default"])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainer", nargs="+", default=["cargo", "run", "--release", "-qp", "trainer", "--"],
                        help="our program")
    parser.add_argument("--weights", type=Path, default=shipped)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch-size", type=int, default=64, help="of PyTorch, and images of a turn; the trainer paints up to 64 at once")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each; 0 to compare only")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.backends.fp32_precision = "ieee"
    device = torch.device(arguments.device)
    tensors, metadata, _ = read_weights(arguments.weights)
    assert metadata.get("prediction", "noise") == "noise", "weights that tell the noise are needed"
    modes = {"PyTorch": False} | ({"PyTorch, as a graph": True} if device.type == "cuda" else {})

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "samples.npy"
        expected, _ = ours(arguments, 1, out)
        assert expected.max() > 128, "a picture of nothing proves nothing"
        for name, graph in modes.items():
            painted = Sampling(tensors, metadata, 1, LABEL, device, graph).walk(seeded)
            off = np.abs(painted[0, 0].astype(int) - expected[0].astype(int))
            print(f"{name}: {np.count_nonzero(off)} of the {off.size} pixels of seed {SEED}'s {GARMENT}"
                  f" differ, by {off.max()} of 255 at most", flush=True)
            assert off.max() <= 2, "another garment"

        batch = arguments.batch_size
        peers = {
            name: Sampling(tensors, metadata, batch, LABEL, device, graph) for name, graph in modes.items()
        }
        speeds = {"ours": [], **{name: [] for name in peers}}
        for _ in range(arguments.rounds):
            one, three = (ours(arguments, batch * batches, out)[1] for batches in [1, 3])
            speeds["ours"].append(2 * batch / (three - one))
            for name, peer in peers.items():
                # The copy to the host at its end waits for all of it.
                begun = time.perf_counter()
                peer.walk()
                speeds[name].append(batch / (time.perf_counter() - begun))
            print(", ".join(f"{name}: {column[-1]:.3g} images/s" for name, column in speeds.items()), flush=True)
        if arguments.rounds == 0:
            return
        where = torch.cuda.get_device_name() if device.type == "cuda" else f"{arguments.threads} threads"
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        print(f"\n{where}, batches of {batch}, {metadata['timesteps']} steps, {arguments.rounds} rounds, "
              f"load average {load:.1f}; median (slowest-fastest) images/s")
        figures = {"device": where, "torch": torch.__version__, "load": load, "batch_size": batch}
        for name, column in speeds.items():
            figures[name] = column
            line = f"{name:<20} {statistics.median(column):>9.3g} ({min(column):.3g}-{max(column):.3g})"
            if name != "ours":
                ratios = [a / b for a, b in zip(speeds["ours"], column)]
                line += (f", ours is {statistics.median(ratios):.2f} times as fast"
                         f" ({min(ratios):.2f}-{max(ratios):.2f})")
            print(line)
        if arguments.out:
            arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
