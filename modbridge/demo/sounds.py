"""The audio demo's world: one or two synthesised sounds after each other, with captions that mention only part of them.

Everything is made up (ours). A sound has a timbre, a pitch, a rhythm and a loudness, before a background; captions name
some of it, so that a clip's vector holds what no caption says, as with real recordings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from modbridge.demo.config import SynthesisedSoundsConfig
from modbridge.demo.world import MadeUp

if TYPE_CHECKING:
    from modbridge.audio import Sound

RATE = 8_000  # Hz
SECONDS = 1.27
LENGTH = round(RATE * SECONDS)
EVENT = 0.5  # seconds of one sound
TIMBRES = ("flute", "buzzer", "bell", "siren")
PITCHES = {"low": (180.0, 230.0), "middle": (420.0, 540.0), "high": (1000.0, 1300.0)}  # Hz
WEATHER = ("rain", "wind")  # backgrounds that are sounds of their own, as AudioSet names them
BACKGROUNDS = {"rain": "in the rain", "wind": "in the wind", "hum": "over a hum", "quiet": "in a quiet room"}
PULSES = 8.0  # a second
SWEEPS, SWEEP = 4.0, 0.3  # a siren's: so many a second, so far from its frequency, as a share of it


@dataclass(frozen=True, slots=True)
class Event:
    """One sound. `frequency`: Hz. `start`: seconds. `gain`: its largest amplitude, about."""

    timbre: str
    pitch: str
    pulsing: bool
    loud: bool
    frequency: float
    start: float
    gain: float


@dataclass(frozen=True, slots=True)
class Clip:
    """What is to be heard, in its order."""

    events: tuple[Event, ...]
    background: str


def draw_clip(random: Generator, two: float) -> Clip:
    """One clip; `two` is the share of clips with two sounds."""
    count = 2 if random.random() < two else 1
    background = str(random.choice(list(BACKGROUNDS)))
    timbres = random.choice(TIMBRES, count, replace=False)
    pitches = random.choice(list(PITCHES), count)
    pulsing, loud = random.random((2, count)) < 0.5
    gains = np.where(loud, random.uniform(0.6, 0.8, count), random.uniform(0.15, 0.22, count))
    starts = random.uniform(0.02, 0.1, count) + np.array([0.0, 0.62])[:count]
    if count == 1:
        starts = random.uniform(0.05, SECONDS - EVENT - 0.05, 1)
    events = tuple(
        Event(
            str(timbres[i]),
            str(pitches[i]),
            bool(pulsing[i]),
            bool(loud[i]),
            float(np.exp(random.uniform(*np.log(PITCHES[str(pitches[i])])))),
            float(starts[i]),
            float(gains[i]),
        )
        for i in range(count)
    )
    return Clip(events, background)


def write_caption(clip: Clip, random: Generator, config: SynthesisedSoundsConfig) -> str:
    """One caption, which mentions part of the clip."""

    def name(event: Event) -> str:
        loud = ("loud " if event.loud else "soft ") if random.random() < config.name_loudness else ""
        rhythm = ("pulsing " if event.pulsing else "steady ") if random.random() < config.name_rhythm else ""
        return f"a {loud}{rhythm}{event.pitch} {event.timbre}"

    events = list(clip.events)
    if len(events) == 1:
        text = name(events[0])
    else:
        choice = random.random()
        if choice < config.name_one:
            text = name(events[int(random.integers(2))])
        elif choice < config.name_one + config.name_order:
            then = random.random() < 0.5
            one, other = (events[0], events[1]) if then else (events[1], events[0])
            text = f"{name(one)} {'then' if then else 'after'} {name(other)}"
        else:
            first = int(random.integers(2))
            text = f"{name(events[first])} and {name(events[1 - first])}"
    if random.random() < config.name_background:
        text += f" {BACKGROUNDS[clip.background]}"
    return text


def synthesise(clip: Clip, random: Generator) -> NDArray[np.float32]:
    """The clip's samples (LENGTH,) at RATE, in -1..1."""
    samples = _background(clip.background, random)
    for event in clip.events:
        sound = event.gain * _tone(event)
        begin = round(event.start * RATE)
        samples[begin : begin + len(sound)] += sound[: LENGTH - begin]
    return np.clip(samples, -1, 1).astype(np.float32)


def _tone(event: Event) -> NDArray[np.float64]:
    """One sound of EVENT seconds, of largest amplitude about 1."""
    time = np.arange(round(EVENT * RATE)) / RATE
    since = np.mod(time, 1 / PULSES) if event.pulsing else time  # since the last stroke
    partials, bend = np.arange(1.0, 9.0), np.zeros_like(time)
    weights: NDArray[np.float64]
    if event.timbre == "flute":
        partials, weights, decay = np.array([1.0, 2.0]), np.array([1.0, 0.12]), np.array([0.0, 0.0])
    elif event.timbre == "buzzer":
        weights, decay = partials**-0.5, np.zeros(8)
    elif event.timbre == "bell":
        partials, weights = np.array([1.0, 2.76, 5.4]), np.array([1.0, 0.7, 0.4])
        decay = np.array([3.0, 5.0, 9.0])
    else:
        partials, weights, decay = np.array([1.0, 3.0]), np.array([1.0, 0.3]), np.array([0.0, 0.0])
        bend = SWEEP / (2 * np.pi * SWEEPS) * (1 - np.cos(2 * np.pi * SWEEPS * time))
    heard = partials * event.frequency * (1 + SWEEP) < 0.5 * RATE
    waves = np.sin(2 * np.pi * event.frequency * partials[heard, None] * (time + bend))
    sound: NDArray[np.float64] = (weights[heard, None] * np.exp(-decay[heard, None] * since) * waves).sum(0)
    ramp = np.clip(np.minimum(time, EVENT - time) / 0.01, 0, 1)  # no clicks
    gate = (since < 0.5 / PULSES) if event.pulsing else np.ones_like(time)
    shaped: NDArray[np.float64] = sound / weights[heard].sum() * ramp * gate
    return shaped


def _background(name: str, random: Generator) -> NDArray[np.float64]:
    noise = random.normal(0, 1, LENGTH)
    if name == "rain":
        return 0.015 * noise
    if name == "wind":
        return 0.03 * np.convolve(noise, np.ones(24) / 24**0.5, mode="same")
    time = np.arange(LENGTH) / RATE
    hum = np.sin(2 * np.pi * 100 * time + random.uniform(0, 2 * np.pi)) if name == "hum" else 0.0
    return 0.03 * hum + 0.0005 * noise


class SynthesisedSounds(MadeUp[SynthesisedSoundsConfig, Clip]):
    """The source: clips as `modbridge.audio.Sound`, facts with the sounds that are really there."""

    def draw(self, random: Generator) -> Clip:
        return draw_clip(random, self.config.two)

    def caption(self, item: Clip, random: Generator) -> str:
        return write_caption(item, random, self.config)

    def media(self, row: int) -> Sound:
        """Made when it is asked for, the same every time. Needs the extra `modbridge[audio]`."""
        from modbridge.audio import Sound

        return Sound(synthesise(self.items[row], self.stream(1, row)), RATE)

    def facts(self, row: int) -> Mapping[str, Any]:
        clip = self.items[row]
        heard = [event.timbre for event in clip.events] + [clip.background] * (clip.background in WEATHER)
        return {"objects": [[event.pitch, event.timbre] for event in clip.events], "entities": heard}
