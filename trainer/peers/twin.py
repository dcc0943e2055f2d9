"""The same training in PyTorch: proof that it is the same, and how fast each of the two is.

    python -m venv venv && venv/bin/pip install -r requirements.txt
    cargo build --release -p trainer
    venv/bin/python twin.py --trainer ../../target/release/trainer

`trainer network --twin` writes down the first steps of a training: weights before and after, the
batches, the losses. The network below starts from the same weights, takes the same steps with
PyTorch's own AdamW, and must arrive at the same losses, weights and answers. Then both train in
turn, each for some seconds a round, and the medians of their images per second are compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "reference"))
from reference import betas, read_container  # noqa: E402

SINUSOIDAL = 64
NO_LABEL = 10


class UNet(torch.nn.Module):
    """Ho et al. 2020's U-Net on folded pixels; the parameters have the names of our files."""

    def __init__(self, tensors, config):
        super().__init__()
        self.config = config
        self.names = sorted(tensors)
        self.weights = torch.nn.ParameterList(
            torch.nn.Parameter(torch.from_numpy(np.array(tensors[name], np.float32)))
            for name in self.names
        )
        self.multiplications = 0

    def forward(self, x, t, labels):
        self.w = dict(zip(self.names, self.weights))
        self.multiplications = 0
        self.left = self.shifts(t, labels)
        levels, blocks = len(self.config["channels"]), self.config["blocks"]
        r = self.config["pixel_unshuffle"]
        x = self.conv("stem", F.pixel_unshuffle(x, r))
        skips = []
        for level in range(levels):
            for block in range(blocks):
                x = self.block(f"down.{level}.blocks.{block}", x)
                skips.append(x)
            if level + 1 < levels:
                x = self.conv(f"down.{level}.resample", x, stride=2)
        for block in range(2):
            x = self.block(f"middle.{block}", x)
        for i, level in enumerate(reversed(range(levels))):
            for block in range(blocks):
                x = self.block(f"up.{i}.blocks.{block}", torch.cat([x, skips.pop()], 1))
            if level > 0:
                x = self.conv(f"up.{i}.resample", F.interpolate(x, scale_factor=2))
        return F.pixel_shuffle(self.conv("head", F.silu(self.norm("head_norm", x))), r)

    def shifts(self, t, labels):
        half = SINUSOIDAL // 2
        frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
        angles = t[:, None] * frequencies
        time = torch.cat([angles.sin(), angles.cos()], 1).float()
        time = self.linear("embed_time_out", F.silu(self.linear("embed_time_in", time)))
        label = F.embedding(labels, self.w["embed_label.weight"])
        return self.linear("embed_shifts", F.silu(time + label))

    def linear(self, name, x):
        return torch.addmm(self.w[name + ".bias"], x, self.w[name + ".weight"])

    def conv(self, name, x, stride=1):
        weight = self.w[name + ".weight"]
        x = F.conv2d(x, weight, self.w[name + ".bias"], stride, weight.shape[-1] // 2)
        self.multiplications += weight.numel() * x.shape[2] * x.shape[3]
        return x

    def norm(self, name, x):
        gamma, beta = self.w[name + ".gamma"], self.w[name + ".beta"]
        return F.group_norm(x, self.config["groups"], gamma, beta)

    def block(self, name, x):
        h = self.conv(name + ".conv_in", F.silu(self.norm(name + ".norm_in", x)))
        shift, self.left = self.left.split([h.shape[1], self.left.shape[1] - h.shape[1]], 1)
        h = F.silu(self.norm(name + ".norm_out", h + shift[:, :, None, None]))
        h = self.conv(name + ".conv_out", h)
        x = (self.conv(name + ".skip", x) if name + ".skip.weight" in self.w else x) + h
        return self.attention(name + ".attention", x) if name + ".attention.norm.gamma" in self.w else x

    def attention(self, name, x):
        batch, channels, height, width = x.shape
        qkv = self.conv(name + ".qkv", self.norm(name + ".norm", x))
        q, k, v = qkv.view(batch, 3, 1, channels, -1).transpose(3, 4).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        self.multiplications += 2 * channels * (height * width) ** 2
        return x + self.conv(name + ".out", mixed.transpose(2, 3).reshape(x.shape))


class Training:
    """Algorithm 1 with AdamW, the gradient clipped by its norm, and averaged weights."""

    def __init__(self, tensors, config, device):
        self.config, self.device = config, device
        self.model = UNet(tensors, config["network"]).to(device)
        self.average = [weight.detach().clone() for weight in self.model.weights]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, weight_decay=config["weight_decay"]
        )
        alpha_bars = np.cumprod(1 - betas(config["schedule"], config["timesteps"]))
        self.image = torch.tensor(np.sqrt(alpha_bars), dtype=torch.float32, device=device)
        self.noise = torch.tensor(np.sqrt(1 - alpha_bars), dtype=torch.float32, device=device)
        self.updates = 0

    def step(self, x_0, noise, t, labels, learning_rate):
        x_t = self.image[t].view(-1, 1, 1, 1) * x_0 + self.noise[t].view(-1, 1, 1, 1) * noise
        loss = F.mse_loss(self.model(x_t, t, labels), noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self.config["max_gradient_norm"]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), norm)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        decay = min(self.config["ema_decay"], (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.model.weights), 1 - decay)
        return loss.detach()


def batches(tensors, device):
    """(x_0, noise, t, labels) of each step."""
    kinds = {"x_0": torch.float32, "noise": torch.float32, "t": torch.int64, "labels": torch.int64}
    columns = [torch.from_numpy(tensors[k]).to(device, kind) for k, kind in kinds.items()]
    return list(zip(*columns))


def part(tensors, prefix):
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def check(tensors, twin, device):
    """Repeats the steps that were written down; prints how far apart the two end, and judges it."""
    config = twin["config"]
    steps = batches(tensors, device)

    # The forward pass alone: our weights, our input, our answer.
    model = UNet(part(tensors, "model."), config["network"]).to(device)
    _, noise, t, labels = steps[0]
    with torch.no_grad():
        answer = model(noise, t, labels).cpu().double().numpy()
    forward = np.abs(answer - tensors["answer"]).max()
    size = np.abs(tensors["answer"]).max()
    print(f"forward pass: largest difference {forward:.2e}, of answers up to {size:.2f}")
    assert size > 0.01, "answers of nothing prove nothing: write down more steps"
    assert forward < 1e-3 * size, "the forward pass is another one"
    counted = model.multiplications
    assert counted == twin["multiplications"], (counted, twin["multiplications"])
    print(f"multiplications an image: {counted} in both")

    training = Training(part(tensors, "initial."), config, device)
    losses = []
    for batch, rate in zip(steps, tensors["learning_rate"]):
        losses.append(training.step(*batch, float(rate)).item())
    apart = np.abs(np.array(losses) / tensors["loss"] - 1)
    print(f"losses of {len(steps)} steps, {losses[0]:.4f} to {losses[-1]:.4f}: "
          f"largest relative difference {apart.max():.2e}")
    assert apart.max() < 1e-3, "the training is another one"

    # Weights: how far the two are apart, against how far they have come.
    for name, found in [("model", training.model.weights), ("average", training.average)]:
        expected = part(tensors, name + ".")
        initial = part(tensors, "initial.")
        square = lambda pairs: sum(float(((a - b) ** 2).sum()) for a, b in pairs) ** 0.5
        names = training.model.names
        found = [w.detach().cpu().double().numpy() for w in found]
        distance = square((f, expected[n]) for f, n in zip(found, names))
        way = square((initial[n], expected[n]) for n in names)
        print(f"{name}: {distance:.2e} apart after a way of {way:.2e}")
        assert distance < 0.05 * way, f"the {name} went elsewhere"


def our_speed(arguments, network, folder):
    out = folder / "network.json"
    command = [*arguments.trainer, "network", network, "--rounds", "1", "--out", str(out)]
    command += ["--seconds", str(arguments.seconds), "--batch-size", str(arguments.batch_size)]
    environment = dict(os.environ, RAYON_NUM_THREADS=str(arguments.threads))
    subprocess.run(
        [*command, *of_data(arguments), "--device", arguments.device],
        check=True, env=environment, stdout=subprocess.DEVNULL,
    )
    figures = json.loads(out.read_text())[0]
    return figures["forward"]["median"], figures["training"]["median"]


def peer_speed(training, steps, seconds, device):
    """Images/s of forward passes and of training steps; for these the noise is drawn, as in ours."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    speeds = []
    for train in [False, True]:
        images, done, begun = 0, 0, time.perf_counter()
        while done < 2 or time.perf_counter() - begun < seconds:
            x_0, _, t, labels = steps[done % len(steps)]
            if train:
                training.step(x_0, torch.randn_like(x_0), t, labels, 1e-3)
            else:
                with torch.no_grad():
                    training.model(x_0, t, labels)
            done += 1
            images += len(t)
            if done % 10 == 0:
                wait()
        wait()
        speeds.append(images / (time.perf_counter() - begun))
    return speeds


def of_data(arguments):
    return ["--data", arguments.data] if arguments.data else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainer", nargs="+", default=["cargo", "run", "--release", "-qp", "trainer", "--"],
                        help="our program")
    parser.add_argument("--network", default="", help="as `trainer network` has it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="steps to compare")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each; 0 to compare only")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn, forward and training each")
    parser.add_argument("--data", help="folder with the four official .gz files")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # The networks are compared in full precision, and PyTorch's own default for speed is less.
    torch.backends.fp32_precision = "ieee"
    device = torch.device(arguments.device)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file = folder / "twin.bpk"
        subprocess.run(
            [*arguments.trainer, "network", arguments.network, "--twin", str(arguments.steps),
             "--batch-size", str(arguments.batch_size), "--out", str(file), *of_data(arguments),
             "--device", arguments.device],
            check=True, stdout=subprocess.DEVNULL,
            env=dict(os.environ, RAYON_NUM_THREADS=str(arguments.threads)),
        )
        tensors, strings = read_container(file.read_bytes())
        twin = json.loads(strings["twin"])
        print(twin["name"])
        check(tensors, twin, device)
        if arguments.rounds == 0:
            return

        training = Training(part(tensors, "initial."), twin["config"], device)
        steps = batches(tensors, device)
        peer_speed(training, steps, 0.0, device)
        ours, theirs, ratios = [], [], []
        for round in range(arguments.rounds):
            ours.append(our_speed(arguments, twin["name"], folder))
            theirs.append(peer_speed(training, steps, arguments.seconds, device))
            ratios.append([a / b for a, b in zip(ours[-1], theirs[-1])])
        where = torch.cuda.get_device_name() if device.type == "cuda" else f"{arguments.threads} threads"
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        print(f"\n{where}, batch {arguments.batch_size}, {arguments.rounds} rounds of "
              f"{arguments.seconds} s, load average {load:.1f}; median (slowest-fastest) images/s")
        figures = {"network": twin["name"], "device": where, "torch": torch.__version__, "load": load}
        for i, what in enumerate(["forward", "training"]):
            line = f"{what:<10}"
            for name, speeds in [("ours", ours), ("PyTorch", theirs), ("ratio", ratios)]:
                column = sorted(speed[i] for speed in speeds)
                median = statistics.median(column)
                digits = 2 if name == "ratio" else 0
                line += f"{name:>9} {median:.{digits}f} ({column[0]:.{digits}f}-{column[-1]:.{digits}f})"
                figures[f"{what} {name}"] = [median, column[0], column[-1]]
            print(line)
        if arguments.out:
            arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
