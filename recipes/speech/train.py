"""Train the small network that detects speech, and write its weights.

    python recipes/speech/train.py RAVDESS_VOICES FACEVOICE [--out speech.safetensors]

RAVDESS_VOICES is ``ravdess_voices.parquet``; FACEVOICE the composite's folder, of which the train clips'
voices (EmoDB) are used. Both are clean recordings, so a step is speech if it is at most 22 dB below the
loudest tenth of a second. Background and sounds without speech are synthesised: music, drums, machines,
rooms, rain, birds. Actors from 20 on choose the epoch; actors 01, 05 and 19 are not in the table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from reactometer.media.audio import read_sound
from reactometer.media.audio_features import STEP_RATE_HZ, log_mel
from reactometer.media.speech import DILATIONS, STEP, WEIGHTS_FILE, scale
from reactometer.paths import STARTER, find_checkpoint
from reactometer.terminal import progress_bar
from reactometer.types import SOUND_RATE_HZ

FIRST_VAL_ACTOR = 20
EXAMPLE_S = 3.0
N_TRAIN, N_VAL = 6000, 1000
EPOCHS, BATCH_SIZE, LEARNING_RATE = 30, 64, 2e-3
CHANNELS, N_TAPS = 32, 5
SHARE_WITHOUT_SPEECH = 0.5
MAX_DROP = 5.0
"""Speech is at most this far (22 dB, natural log power) below the loudest tenth of a second."""

Array = np.ndarray


class Network(nn.Module):
    """Three dilated convolutions over time, and a logit per step."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (64, CHANNELS, CHANNELS, CHANNELS)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(sizes[index], sizes[index + 1], N_TAPS, dilation=dilation, padding=2 * dilation)
            for index, dilation in enumerate(DILATIONS)
        )
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Conv1d(CHANNELS, 1, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """Return logits (B, N) of scaled log-mel steps (B, N, 64)."""
        steps = mel.transpose(1, 2)
        for convolution in self.convolutions:
            steps = self.dropout(torch.relu(convolution(steps)))
        return self.out(steps).squeeze(1)

    def arrays(self) -> dict[str, Array]:
        """Return the weights as ``media/speech.py`` reads them."""
        arrays = {}
        for index, convolution in enumerate(self.convolutions):
            arrays[f"{index}.weight"] = convolution.weight.detach().permute(2, 1, 0).numpy().copy()
            arrays[f"{index}.bias"] = convolution.bias.detach().numpy().copy()
        arrays["out.weight"] = self.out.weight.detach().numpy()[0, :, 0].copy()
        arrays["out.bias"] = self.out.bias.detach().numpy().copy()
        return arrays


def read_voices(table: Path, facevoice: Path) -> tuple[list[Array], list[Array]]:
    """Return the waveforms of train (RAVDESS and EmoDB) and of val (RAVDESS)."""
    train, val = [], []
    rows = pd.read_parquet(table, columns=["actor", "audio"])
    clips = pd.read_csv(facevoice / "data_info.csv", dtype=str)
    names = clips.loc[clips["Split"] == "Train", "File_ID"].str.strip("[]")
    with progress_bar("reading", len(rows) + len(names)) as advance, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "voice.ogg"
        for actor, audio in rows.itertuples(index=False):
            file.write_bytes(audio)
            (val if actor >= FIRST_VAL_ACTOR else train).append(_read(file))
            advance()
        for name in names:
            train.append(_read(facevoice / "train" / "mp4" / f"{name}.mp4"))
            advance()
    return [voice for voice in train if voice.any()], val


def _read(file: Path) -> Array:
    blocks = [block.samples for block in read_sound(file)]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def coloured(rng: np.random.Generator, size: int) -> Array:
    """Return noise with a random slope, and often a random band."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    rate_hz = np.fft.rfftfreq(size, 1 / SOUND_RATE_HZ)
    spectrum *= np.maximum(rate_hz, 20.0) ** -rng.uniform(0.0, 1.3)
    if rng.random() < 0.4:
        low_hz = rng.uniform(0, 3000)
        spectrum *= (rate_hz > low_hz) & (rate_hz < low_hz + rng.uniform(200, 5000))
    return np.fft.irfft(spectrum, size)


def machine(rng: np.random.Generator, size: int) -> Array:
    """Return a hum with harmonics over noise, both with a slow flutter: rooms, fans, engines."""
    times_s = np.arange(size) / SOUND_RATE_HZ
    hum_hz = rng.uniform(40, 400) * (1 + rng.uniform(0, 0.05) * np.sin(rng.uniform(0.2, 6) * times_s))
    phase = 2 * np.pi * np.cumsum(hum_hz) / SOUND_RATE_HZ
    hum = sum(rng.uniform(0, 1) / k * np.sin(k * phase) for k in range(1, rng.integers(2, 14)))
    flutter = 1 + rng.uniform(0, 0.9) * np.sin(2 * np.pi * rng.uniform(0.3, 12) * times_s)
    return _unit(coloured(rng, size)) * flutter + _unit(np.asarray(hum)) * 10 ** rng.uniform(-1.5, 0.7)


def crackle(rng: np.random.Generator, size: int) -> Array:
    """Return short hits at random times: rain, applause, keys, steps, drums."""
    sound = np.zeros(size)
    rate_hz = 10 ** rng.uniform(0.2, 2.5)
    tick = np.arange(round(0.3 * SOUND_RATE_HZ)) / SOUND_RATE_HZ
    is_beat = rng.random() < 0.5
    count = max(1, round(size / SOUND_RATE_HZ * min(rate_hz, 8.0 if is_beat else 300.0)))
    starts = np.arange(count) * size // count if is_beat else rng.integers(0, size, count)
    kinds = [(rng.uniform(40, 3000), rng.uniform(8, 80), rng.uniform(0, 1)) for _ in range(3)]
    for number, start in enumerate(starts):
        pitch_hz, decay, noisiness = kinds[number % 3]
        hit = noisiness * rng.standard_normal(len(tick))
        hit += (1 - noisiness) * np.sin(2 * np.pi * pitch_hz * tick * (1 + 2 * np.exp(-40 * tick)))
        end = min(start + len(tick), size)
        sound[start:end] += (hit * np.exp(-decay * tick))[: end - start] * rng.uniform(0.3, 1)
    return sound


def tones(rng: np.random.Generator, size: int) -> Array:
    """Return notes of one instrument: chords or a melody, struck, bowed or synthesised, or birds."""
    sound = np.zeros(size)
    slope, is_bowed = rng.uniform(0.3, 2.2), rng.random() < 0.5
    vibrato, n_voices = rng.uniform(0, 0.012) * (rng.random() < 0.6), rng.integers(1, 5)
    length_s = rng.choice([0.12, 0.2, 0.3, 0.5, 1.0, 2.0])
    base_hz = 10 ** rng.uniform(1.8, 2.9) * (8 if rng.random() < 0.1 else 1)
    peak_hz, width = rng.uniform(200, 4000), rng.uniform(0.3, 2.0)
    has_resonance = rng.random() < 0.4
    decay = rng.uniform(0.5, 8)
    for start in np.arange(0, size, round(length_s * SOUND_RATE_HZ)):
        duration = min(round(length_s * SOUND_RATE_HZ * rng.uniform(0.6, 2.5)), size - start)
        times_s = np.arange(duration) / SOUND_RATE_HZ
        for _ in range(n_voices):
            pitch_hz = base_hz * 2 ** (rng.choice([0, 2, 3, 4, 5, 7, 9, 11, 12, 14]) / 12)
            phase = 2 * np.pi * pitch_hz * times_s + vibrato * pitch_hz * np.sin(2 * np.pi * 5.5 * times_s)
            note = np.zeros(duration)
            for k in range(1, rng.integers(3, 16)):
                if k * pitch_hz > SOUND_RATE_HZ / 2.2:
                    break
                gain = k**-slope
                if has_resonance:
                    gain *= np.exp(-((np.log(k * pitch_hz / peak_hz) / width) ** 2))
                note += gain * np.sin(k * phase + rng.uniform(0, 6))
            attack = np.minimum(1, times_s / (0.08 if is_bowed else 0.004))
            release = np.minimum(1, (times_s[-1] - times_s) / 0.05) if duration > 1 else 1.0
            sound[start : start + duration] += (
                note * attack * release * (1.0 if is_bowed else np.exp(-decay * times_s))
            )
    return sound


def background(rng: np.random.Generator, size: int) -> Array:
    """Return a sound without speech, with a root mean square of 1; now and then silence."""
    if rng.random() < 0.04:
        return np.zeros(size)
    makers = (coloured, machine, crackle, tones, tones)
    parts = [makers[rng.integers(len(makers))](rng, size) for _ in range(rng.choice([1, 1, 2, 3]))]
    mixed = _unit(sum(_unit(part) * 10 ** rng.uniform(-0.7, 0.0) for part in parts))
    if rng.random() < 0.15:  # it begins or ends
        edge = rng.integers(0, size)
        mixed = np.where((np.arange(size) < edge) == (rng.random() < 0.5), mixed, 0.0)
    return mixed


def _unit(sound: Array) -> Array:
    return sound / max(float(np.sqrt(np.mean(np.square(sound)))), 1e-9)


def examples(voices: list[Array], count: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Yield scaled log-mel steps (N, 64) and a mask (N,) of speech, with the steps' targets."""
    rng = np.random.default_rng(seed)
    size = round(EXAMPLE_S * SOUND_RATE_HZ)
    for _ in range(count):
        noise = background(rng, size)
        sound, target = noise, np.zeros(round(EXAMPLE_S * STEP_RATE_HZ))
        if rng.random() > SHARE_WITHOUT_SPEECH:
            voice = voices[rng.integers(len(voices))]
            start = rng.integers(-size // 2, max(len(voice) - size // 2, 1))
            clean = np.zeros(size, np.float32)
            cut = voice[max(start, 0) : max(start + size, 0)][:size]
            offset = max(-start, 0)
            cut = cut[: size - offset]
            clean[offset : offset + len(cut)] = cut
            level = log_mel(voice).mean(axis=1).max()
            target = (log_mel(clean).mean(axis=1) >= level - MAX_DROP).astype(float)
            loudness = float(np.sqrt(np.mean(np.square(voice[np.abs(voice) > 0.01 * np.abs(voice).max()]))))
            snr_db = rng.uniform(0, 40)
            sound = clean / max(loudness, 1e-6) + noise * 10 ** (-snr_db / 20)
        sound = sound / max(float(np.abs(sound).max()), 1e-9) * 10 ** (rng.uniform(-40, 0) / 20)
        sound = (np.round(sound * 32767) / 32767).astype(np.float32)
        yield scale(log_mel(sound)[::STEP]).astype(np.float32), target[::STEP].astype(np.float32)


def stack(voices: list[Array], count: int, seed: int, title: str) -> tuple[Tensor, Tensor]:
    """Return all examples: steps (E, N, 64) and targets (E, N)."""
    steps, targets = [], []
    with progress_bar(title, count) as advance:
        for mel, target in examples(voices, count, seed):
            steps.append(mel)
            targets.append(target)
            advance()
    return torch.from_numpy(np.stack(steps)), torch.from_numpy(np.stack(targets))


def fit(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> Network:
    """Train; return the network of the best epoch on val."""
    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, epochs=EPOCHS, steps_per_epoch=-(-len(train[0]) // BATCH_SIZE)
    )
    best_loss, best = np.inf, network.state_dict()
    for epoch in range(EPOCHS):
        network.train()
        for batch in torch.randperm(len(train[0])).split(BATCH_SIZE):
            loss = nn.functional.binary_cross_entropy_with_logits(network(train[0][batch]), train[1][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            logits = network(val[0])
        val_loss = float(nn.functional.binary_cross_entropy_with_logits(logits, val[1]))
        error = float(((logits > 0) != (val[1] > 0.5)).float().mean())
        print(f"epoch {epoch + 1}: val loss {val_loss:.4f}, wrong steps {error:.3f}", flush=True)
        if val_loss < best_loss:
            best_loss, best = val_loss, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)
    return network


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ravdess_voices", type=Path)
    parser.add_argument("facevoice", type=Path)
    parser.add_argument("--out", type=Path, default=find_checkpoint(STARTER) / WEIGHTS_FILE)
    arguments = parser.parse_args()
    train_voices, val_voices = read_voices(arguments.ravdess_voices, arguments.facevoice)
    train = stack(train_voices, N_TRAIN, 0, "train examples")
    val = stack(val_voices, N_VAL, 1, "val examples")
    save_file(fit(train, val).arrays(), arguments.out)


if __name__ == "__main__":
    main()
