"""The numbers that the Rust code is compared with: a second implementation, in plain NumPy and f64.

Written from the papers and from what the file format says about itself, not from the Rust sources:
the samplers in the form in which diffusers has them (posterior mean of x_0 and x_t, the direction
that points to x_t, the differences D0 and D1), the network layer by layer.

    python -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python reference.py

reads ../data/tiny.bpk and the default weights of ../../web/weights and writes
../data/*.safetensors. Run it again whenever that file is no longer among those that ship: the
references name the SHA-256 of the weights they belong to.
"""

import hashlib
import json
import math
import struct
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"
WEIGHTS = HERE.parent.parent / "web" / "weights"


# ---------------------------------------------------------------- the file: CBOR, then raw tensors


def cbor(data, at=0):
    """One CBOR item (RFC 8949) of the kinds that occur; returns it and where the next one begins."""
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7 and info in (20, 21, 22):
        return {20: False, 21: True, 22: None}[info], at
    indefinite = info == 31
    if info < 24:
        value = info
    elif not indefinite:
        size = 1 << (info - 24)
        value, at = int.from_bytes(data[at : at + size], "big"), at + size
    if major == 0:
        return value, at
    if major in (2, 3):
        raw = bytes(data[at : at + value])
        return (raw.decode() if major == 3 else raw), at + value
    if major not in (4, 5):
        raise ValueError(f"CBOR major type {major} does not occur in these files")
    items = []
    while not (data[at] == 0xFF if indefinite else len(items) == value * (major - 3)):
        item, at = cbor(data, at)
        items.append(item)
    at += indefinite
    return (items if major == 4 else dict(zip(items[::2], items[1::2]))), at


def read_container(data):
    """Tensors by name, in f64, and the strings beside them."""
    magic, version, size = struct.unpack_from("<IHI", data)
    assert (magic, version) == (0x4255524E, 1), "not a burnpack file of version 1"
    header, _ = cbor(data, 10)
    start = -(-(10 + size) // 256) * 256
    tensors = {}
    for name, entry in header["tensors"].items():
        first, last = entry["data_offsets"]
        dtype = {"F16": "<f2", "F32": "<f4"}[entry["dtype"]]
        values = np.frombuffer(data[start + first : start + last], dtype)
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors, header["metadata"]


def read_weights(path):
    """Tensors by name, in f64, the metadata, and the file's SHA-256."""
    data = path.read_bytes()
    tensors, strings = read_container(data)
    return tensors, json.loads(strings["metadata"]), hashlib.sha256(data).digest()


# ---------------------------------------------------------------- the network


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def conv(x, weight, bias, stride=1):
    """Cross-correlation that keeps the size (before the stride): zeros all round."""
    reach = weight.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("bihwkl,oikl->bohw", windows, weight, optimize=True) + bias[:, None, None]


def group_norm(x, gamma, beta, groups, epsilon=1e-5):
    batch, channels, height, width = x.shape
    grouped = x.reshape(batch, groups, -1)
    mean = grouped.mean(-1, keepdims=True)
    variance = ((grouped - mean) ** 2).mean(-1, keepdims=True)
    normal = ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
    return normal * gamma[:, None, None] + beta[:, None, None]


class UNet:
    """Ho et al. 2020's U-Net on folded pixels, with the weights of a file."""

    def __init__(self, tensors, config):
        self.w, self.config = tensors, config

    def linear(self, name, x):
        return x @ self.w[name + ".weight"] + self.w[name + ".bias"]

    def conv(self, name, x, stride=1):
        return conv(x, self.w[name + ".weight"], self.w[name + ".bias"], stride)

    def norm(self, name, x):
        return group_norm(x, self.w[name + ".gamma"], self.w[name + ".beta"], self.config["groups"])

    def shifts(self, t, labels):
        """What timestep and label add to the channels of all blocks, one after the other."""
        frequencies = np.exp(-np.log(10000) * np.arange(32) / 32)
        angles = np.asarray(t, np.float64)[:, None] * frequencies
        time = np.concatenate([np.sin(angles), np.cos(angles)], 1)
        time = self.linear("embed_time_out", silu(self.linear("embed_time_in", time)))
        label = self.w["embed_label.weight"][np.asarray(labels)]
        return self.linear("embed_shifts", silu(time + label))

    def attention(self, name, x):
        batch, channels, height, width = x.shape
        qkv = self.conv(name + ".qkv", self.norm(name + ".norm", x))
        q, k, v = qkv.reshape(batch, 3, channels, height * width).transpose(1, 0, 3, 2)
        mixed = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(channels)) @ v
        mixed = mixed.transpose(0, 2, 1).reshape(x.shape)
        return x + self.conv(name + ".out", mixed)

    def block(self, name, x):
        h = self.conv(name + ".conv_in", silu(self.norm(name + ".norm_in", x)))
        h += self.next_shift(h.shape[1])[:, :, None, None]
        h = self.conv(name + ".conv_out", silu(self.norm(name + ".norm_out", h)))
        if name + ".skip.weight" in self.w:
            x = self.conv(name + ".skip", x)
        x = x + h
        return self.attention(name + ".attention", x) if name + ".attention.norm.gamma" in self.w else x

    def next_shift(self, channels):
        shift, self.left = self.left[:, :channels], self.left[:, channels:]
        return shift

    def __call__(self, x, t, labels):
        self.left = self.shifts(t, labels)
        levels, blocks = len(self.config["channels"]), self.config["blocks"]
        r = self.config["pixel_unshuffle"]
        # Pixel (r y + i, r x + j) goes to channel r i + j.
        x = np.concatenate([x[:, :, i::r, j::r] for i in range(r) for j in range(r)], 1)
        x = self.conv("stem", x)
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
                x = self.block(f"up.{i}.blocks.{block}", np.concatenate([x, skips.pop()], 1))
            if level > 0:
                x = self.conv(f"up.{i}.resample", x.repeat(2, 2).repeat(2, 3))
        assert not skips and self.left.shape[1] == 0
        x = self.conv("head", silu(self.norm("head_norm", x)))
        image = np.empty((x.shape[0], 1, x.shape[2] * r, x.shape[3] * r))
        for channel in range(r * r):
            image[:, 0, channel // r :: r, channel % r :: r] = x[:, channel]
        return image


# ---------------------------------------------------------------- the process


def betas(kind, timesteps=1000):
    if kind == "linear":
        return np.linspace(1e-4, 0.02, timesteps)
    alpha_bar = lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    steps = np.arange(timesteps)
    return np.minimum(1 - alpha_bar((steps + 1) / timesteps) / alpha_bar(steps / timesteps), 0.999)


class Schedule:
    def __init__(self, kind, timesteps=1000):
        self.betas = betas(kind, timesteps)
        self.alphas_cumprod = np.cumprod(1 - self.betas)
        before = np.concatenate([[1.0], self.alphas_cumprod[:-1]])
        self.posterior_variance = self.betas * (1 - before) / (1 - self.alphas_cumprod)

    def timesteps(self, sampler, steps):
        """Trailing spacing; all but DDPM start where 1 / sqrt(alpha_bar) is at most 200."""
        usable = len(self.betas)
        if sampler != "ddpm":
            usable = int(np.sum(self.alphas_cumprod >= 1 / 200**2))
        return [int(np.floor((steps - i) * usable / steps + 0.5)) - 1 for i in range(steps)]


def q_sample(schedule, x_0, t, noise):
    alpha_bar = schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    return np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * noise


def step(schedule, sampler, steps, index, x_t, pred_noise, previous, z):
    """One step: t, the clipped estimate of x_0, and the next state."""
    timesteps = schedule.timesteps(sampler, steps)
    t = timesteps[index]
    last = index + 1 == steps
    alpha_bar = schedule.alphas_cumprod[t]
    alpha_bar_prev = 1.0 if last else schedule.alphas_cumprod[timesteps[index + 1]]
    x_0 = np.clip((x_t - np.sqrt(1 - alpha_bar) * pred_noise) / np.sqrt(alpha_bar), -1, 1)

    if sampler == "ddpm":
        # Ho et al. 2020, equation 7, the mean of q(x_prev | x_t, x_0), with diffusers' names.
        alpha = alpha_bar / alpha_bar_prev
        beta = 1 - alpha
        x_0_coefficient = np.sqrt(alpha_bar_prev) * beta / (1 - alpha_bar)
        x_t_coefficient = np.sqrt(alpha) * (1 - alpha_bar_prev) / (1 - alpha_bar)
        variance = beta if steps == len(schedule.betas) else (1 - alpha_bar_prev) / (1 - alpha_bar) * beta
        noise = 0 if last else np.sqrt(variance) * z
        return t, x_0, x_0_coefficient * x_0 + x_t_coefficient * x_t + noise

    if sampler.startswith("ddim"):
        eta = float(sampler[4:])
        # Song et al. 2020, equations 12 and 16.
        noise_hat = (x_t - np.sqrt(alpha_bar) * x_0) / np.sqrt(1 - alpha_bar)
        variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
        std_dev = eta * np.sqrt(variance)
        direction = np.sqrt(max(1 - alpha_bar_prev - std_dev**2, 0)) * noise_hat
        return t, x_0, np.sqrt(alpha_bar_prev) * x_0 + direction + std_dev * z

    # Lu et al. 2022, DPM-Solver++(2M), in diffusers' form: m0 and m1 are the data predictions,
    # lambda the half log-SNR.
    split = lambda a: (np.sqrt(a), np.sqrt(1 - a), np.log(np.sqrt(a) / np.sqrt(1 - a)))
    if last:
        # lambda_t is infinite: e^(-h) = 0, sigma_t = 0, alpha_t = 1, and the order is lowered.
        return t, x_0, x_0.copy()
    alpha_t, sigma_t, lambda_t = split(alpha_bar_prev)
    _, sigma_s0, lambda_s0 = split(alpha_bar)
    h = lambda_t - lambda_s0
    if index == 0:
        return t, x_0, sigma_t / sigma_s0 * x_t - alpha_t * (np.exp(-h) - 1) * x_0
    _, _, lambda_s1 = split(schedule.alphas_cumprod[timesteps[index - 1]])
    r0 = (lambda_s0 - lambda_s1) / h
    d0, d1 = x_0, (x_0 - previous) / r0
    factor = alpha_t * (np.exp(-h) - 1)
    return t, x_0, sigma_t / sigma_s0 * x_t - factor * d0 - 0.5 * factor * d1


# ---------------------------------------------------------------- the noise


def chacha(key, rounds, counters, nonce=(0, 0, 0)):
    """Blocks of ChaCha (Bernstein 2008), shape [counters, 16]; the words are those of RFC 8439."""
    words = [*np.frombuffer(b"expand 32-byte k" + key, "<u4"), 0, *nonce]
    start = np.repeat(np.array(words, np.uint32)[:, None], len(counters), 1)
    start[12] = counters
    state = start.copy()

    def add_and_turn(a, b, d, bits):
        state[a] += state[b]
        mixed = state[d] ^ state[a]
        state[d] = mixed << np.uint32(bits) | mixed >> np.uint32(32 - bits)

    columns = [(i, 4 + i, 8 + i, 12 + i) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    for _ in range(rounds // 2):
        for a, b, c, d in columns + diagonals:
            add_and_turn(a, b, d, 16)
            add_and_turn(c, d, b, 12)
            add_and_turn(a, b, d, 8)
            add_and_turn(c, d, b, 7)
    return (state + start).T


def density(x):
    return math.exp(-x * x / 2)


def layers():
    """Where the 256 layers of equal area end that Marsaglia & Tsang 2000 put under the curve, from
    the undermost one, which the tail belongs to, to the tip; their r, and the area by its definition."""
    r = 3.6541528853610088
    area = r * density(r) + math.sqrt(math.pi / 2) * math.erfc(r / math.sqrt(2))
    x = [area / density(r), r]
    while len(x) < 256:
        x.append(math.sqrt(-2 * math.log(density(x[-1]) + area / x[-1])))
    assert abs(density(x[-1]) + area / x[-1] - 1) < 1e-12, "the layers do not end at the tip"
    return [*x, 0.0]


LAYERS = layers()


def gaussian(seed, image, branch, t, count=28 * 28):
    """Standard normal numbers of a key, as src/noise.rs has them: ChaCha8, and the ziggurat in the form
    of Doornik 2005 ("An improved ziggurat method"). The third value says how many came from the tail."""
    key = struct.pack("<IIIQ", seed, image, branch, t) + b"fashion-ddpm"
    # A number in a hundred takes more than one draw of 64 bits; eight draws are a block.
    blocks = chacha(key, 8, np.arange(count // 8 + count // 100 + 16))
    draws = iter(np.ascontiguousarray(blocks).view("<u8").ravel().tolist())
    numbers, tails = [], 0
    while len(numbers) < count:
        bits = next(draws)
        layer, u = bits & 255, (bits >> 12) / 2**51 - 1
        x = u * LAYERS[layer]
        if abs(x) < LAYERS[layer + 1]:
            numbers.append(x)
        elif layer > 0:
            low, high = density(LAYERS[layer]), density(LAYERS[layer + 1])
            if high + (low - high) * ((next(draws) >> 11) / 2**53) < density(x):
                numbers.append(x)
        else:
            # Beyond r (Marsaglia 1964): exponential steps, accepted as the tail falls faster.
            step, y = 1.0, 0.0
            while 2 * y < step**2:
                step, y = (-math.log(((next(draws) >> 12) + 0.5) / 2**52) for _ in range(2))
                step /= LAYERS[1]
            numbers.append(math.copysign(LAYERS[1] + step, u))
            tails += 1
    return np.array(numbers).reshape(1, 1, 28, 28), tails


def walk(unet, schedule, sampler, steps, seed, label, guidance_scale=1.0):
    """The finished image 0 of a seed."""
    x, previous = gaussian(seed, 0, 0, len(schedule.betas))[0], None
    for index, t in enumerate(schedule.timesteps(sampler, steps)):
        pred_noise = unet(x, [t], [label])
        if guidance_scale != 1:
            # Ho & Salimans 2022, with the scale of Stable Diffusion: 1 is no guidance.
            free = unet(x, [t], [NO_LABEL])
            pred_noise = free + guidance_scale * (pred_noise - free)
        z = gaussian(seed, 0, 0, t)[0]
        _, previous, x = step(schedule, sampler, steps, index, x, pred_noise, previous, z)
    return x


# ---------------------------------------------------------------- what is written

NO_LABEL = 10
SCHEDULES = ["linear", "cosine"]
SAMPLERS = ["ddpm", "ddim0", "ddim1", "dpm"]
WALKS = {
    "ddpm": [(1000, 0), (1000, 1), (1000, 500), (1000, 998), (1000, 999), (50, 0), (50, 20), (50, 49)],
    "ddim0": [(50, 0), (50, 20), (50, 49)],
    "ddim1": [(50, 0), (50, 20), (50, 49)],
    "dpm": [(20, 0), (20, 1), (20, 10), (20, 18), (20, 19)],
}


# Seed, image, branch and t of a run's first noise, of the largest keys, and of one with a number
# from the tail.
NOISE = [(7, 0, 0, 1000), (2**32 - 1, 2047, 2**32 - 1, 0), (0, 1, 3, 999), (7, 0, 0, 1)]

# Sampler, steps, seed, label and guidance scale.
GARMENTS = [
    ("ddpm", 1000, 7, 4, 1.0),
    ("ddim0", 50, 8, 9, 1.0),
    ("ddim1", 50, 9, NO_LABEL, 1.0),
    ("dpm", 20, 10, 5, 2.5),
]


def f32(x):
    """Rounded to f32 and widened again: the number that both implementations start from."""
    return np.asarray(x, np.float32).astype(np.float64)


def drawing():
    """A black picture with a coarse shirt in it, in [-1, 1]; clothing enough for a denoiser."""
    image = -np.ones((28, 28))
    image[4:25, 9:19] = 0.4
    image[5:10, 4:24] = 0.1
    image[4:6, 12:16] = -1
    return f32(image)[None, None]


def process_references():
    """Noise, schedules and noising; no network."""
    rng = np.random.default_rng(1)
    x_0 = f32(np.clip(rng.normal(0, 0.6, (4, 1, 28, 28)), -1, 1))
    noise = f32(rng.normal(size=x_0.shape))
    t = np.array([0, 300, 700, 999])
    out = {"q_sample.x_0": x_0, "q_sample.noise": noise, "q_sample.t": t}
    # RFC 8439, section 2.3.2.
    block = chacha(bytes(range(32)), 20, [1], (0x09000000, 0x4A000000, 0))
    assert block[0][:4].tolist() == [0xE4E7F110, 0x15593BD1, 0x1FDD0F50, 0xC47120A3], "no ChaCha"
    numbers, tails = zip(*(gaussian(*key) for key in NOISE))
    assert any(tails), "no number is from the tail"
    out["noise.keys"], out["noise.values"] = np.array(NOISE), np.concatenate(numbers)
    for kind in SCHEDULES:
        schedule = Schedule(kind)
        out[f"{kind}.betas"] = schedule.betas
        out[f"{kind}.alphas_cumprod"] = schedule.alphas_cumprod
        out[f"{kind}.posterior_variance"] = schedule.posterior_variance
        out[f"{kind}.x_t"] = q_sample(schedule, x_0, t, noise)
    wide = {name for name in out if name.split(".")[1] in ("betas", "alphas_cumprod", "posterior_variance")}
    return out, wide


def network_references(path, kinds=None):
    """The network of this file, and one step of each sampler with it."""
    tensors, metadata, sha256 = read_weights(path)
    unet = UNet(tensors, metadata["config"])
    kinds = kinds or [metadata["schedule"]]
    rng = np.random.default_rng(2)
    t = np.array([0, 1, 10, 100, 250, 400, 500, 600, 750, 900, 998, 999])
    labels = np.array([10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    noise = f32(rng.normal(size=(len(t), 1, 28, 28)))
    x = f32(q_sample(Schedule(kinds[0]), drawing(), t, noise))
    guidance_scale = 2.5
    free, conditional = unet(x[:3], t[:3], [10] * 3), unet(x[:3], t[:3], [7] * 3)
    out = {
        "weights_sha256": np.frombuffer(sha256, np.uint8).astype(np.int64),
        "forward.x": x,
        "forward.t": t,
        "forward.label": labels,
        "forward.pred_noise": unet(x, t, labels),
        "shifts": unet.shifts(t, labels),
        "guided.pred_noise": free + guidance_scale * (conditional - free),
    }
    # The same for every case; most samplers look at one of them at most.
    z = f32(rng.normal(size=(1, 1, 28, 28)))
    previous = f32(np.clip(drawing() + 0.3 * rng.normal(size=z.shape), -1, 1))
    cases, results = [], []
    for kind in kinds:
        schedule = Schedule(kind, metadata["timesteps"])
        for sampler in SAMPLERS:
            for steps, index in WALKS[sampler]:
                t = schedule.timesteps(sampler, steps)[index]
                label = len(cases) % 11
                noise = rng.normal(size=z.shape)
                x_t = f32(q_sample(schedule, drawing(), np.array([t]), noise))
                pred_noise = unet(x_t, [t], [label])
                t, x_0, x_prev = step(schedule, sampler, steps, index, x_t, pred_noise, previous, z)
                cases.append([SCHEDULES.index(kind), SAMPLERS.index(sampler), steps, index, t, label])
                results.append([x_t, x_0, x_prev])
    out["step.cases"] = np.array(cases)
    out["step.previous"], out["step.z"] = previous, z
    for name, arrays in zip(["x_t", "pred_x_start", "x_prev"], zip(*results)):
        out["step." + name] = np.concatenate(arrays)
    return out, set()


def garment_references(path):
    """Whole walks, from the seed to the finished picture."""
    tensors, metadata, _ = read_weights(path)
    assert metadata.get("prediction", "noise") == "noise", "what the network tells is not the noise"
    unet = UNet(tensors, metadata["config"])
    schedule = Schedule(metadata["schedule"], metadata["timesteps"])
    pictures = [walk(unet, schedule, *garment) for garment in GARMENTS]
    cases = [[SAMPLERS.index(sampler), *numbers] for sampler, *numbers, _ in GARMENTS]
    return {
        "walk.cases": np.array(cases),
        "walk.guidance_scale": np.array([garment[-1] for garment in GARMENTS]),
        "walk.x_0": np.concatenate(pictures),
    }


def write(path, arrays, wide):
    """A .safetensors of f32 (`wide` ones f64, integers i64): a JSON header, then the raw numbers."""
    header, blobs, end = {}, [], 0
    for name, array in arrays.items():
        array = np.asarray(array)
        integer = array.dtype.kind == "i"
        dtype = "I64" if integer else "F64" if name in wide else "F32"
        blob = array.astype({"I64": "<i8", "F64": "<f8", "F32": "<f4"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [end, end + len(blob)]}
        blobs.append(blob)
        end += len(blob)
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(blobs))
    temporary.replace(path)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(arrays)} arrays")


def main():
    write(DATA / "process.safetensors", *process_references())
    write(DATA / "tiny.safetensors", *network_references(DATA / "tiny.bpk", SCHEDULES))
    index = WEIGHTS / "index.json"
    if index.exists():
        default = json.loads(index.read_text())["default"]
        arrays, wide = network_references(WEIGHTS / default)
        write(DATA / "shipped.safetensors", arrays | garment_references(WEIGHTS / default), wide)


if __name__ == "__main__":
    main()
