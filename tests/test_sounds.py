"""The audio demo's world: what is heard is what the facts and captions say."""

from __future__ import annotations

import numpy as np
import pytest

from modbridge.audio import load_audio
from modbridge.demo.config import SynthesisedSoundsConfig
from modbridge.demo.objects import named_objects
from modbridge.demo.sounds import BACKGROUNDS, LENGTH, PITCHES, RATE, TIMBRES, Event, SynthesisedSounds, _tone


def sounds(**fields: object) -> SynthesisedSounds:
    return SynthesisedSounds(SynthesisedSoundsConfig(type="synthesised_sounds", **{"count": 60, **fields}))


def samples(source: SynthesisedSounds, row: int) -> np.ndarray:
    return load_audio(source.media(row), RATE)


def test_the_world_is_decided_by_seed_and_split() -> None:
    one, again = sounds(seed=3), sounds(seed=3)
    assert one.fingerprint() == again.fingerprint()
    assert np.array_equal(samples(one, 7), samples(again, 7))
    for other in (sounds(seed=4), sounds(seed=3, split="test"), sounds(seed=3, name_one=0.5)):
        assert other.fingerprint() != one.fingerprint()
    assert not np.array_equal(samples(sounds(seed=3, split="test"), 0), samples(one, 0))
    assert samples(one, 0).shape == (LENGTH,)
    assert max(np.abs(samples(one, row)).max() for row in range(60)) <= 1


def test_a_clip_does_not_depend_on_the_others() -> None:
    few, many = sounds(count=5), sounds(count=50)
    assert few.facts(3) == many.facts(3)
    assert np.array_equal(samples(few, 3), samples(many, 3))


def test_captions_say_only_what_is_there() -> None:
    source = sounds(captions=6, count=200)
    known = {"a", "loud", "soft", "pulsing", "steady", "and", "then", "after", *PITCHES, *TIMBRES}
    known |= {word for phrase in BACKGROUNDS.values() for word in phrase.split()}
    partial = 0
    for row in range(len(source)):
        heard = [(pitch, timbre) for pitch, timbre in source.facts(row)["objects"]]
        for text in source.texts(row):
            assert set(text.split()) <= known
            assert named_objects(text) <= set(heard)
            assert named_objects(text)
            partial += named_objects(text) != set(heard)
            if " then " in text or " after " in text:
                first, second = text.split(" then ") if " then " in text else text.split(" after ")[::-1]
                assert [*named_objects(first), *named_objects(second)] == heard
    assert 0.05 < partial / 1200 < 0.5


@pytest.mark.parametrize("pitch", PITCHES)
def test_pitches_are_where_they_are_said_to_be(pitch: str) -> None:
    """The spectrum's highest peak of a flute, which is little but its fundamental."""
    low, high = PITCHES[pitch]
    source = sounds(count=300, two=0.0)
    rows = [row for row in range(300) if source.facts(row)["objects"] == [[pitch, "flute"]]]
    assert len(rows) > 5
    for row in rows:
        spectrum = np.abs(np.fft.rfft(samples(source, row), 4 * LENGTH))
        at = np.fft.rfftfreq(4 * LENGTH, 1 / RATE)
        peak = at[np.where(at > 150, spectrum, 0).argmax()]  # above the background's hum
        assert low - 20 < peak < high + 20


def event(timbre: str, **fields: object) -> Event:
    given = {"pitch": "middle", "pulsing": False, "loud": True, "frequency": 480.0, "start": 0.0, "gain": 1.0}
    return Event(timbre=timbre, **{**given, **fields})


def test_timbres_differ_as_their_names_say() -> None:
    def power(sound: np.ndarray, low: float, high: float) -> float:
        spectrum, at = np.abs(np.fft.rfft(sound)) ** 2, np.fft.rfftfreq(len(sound), 1 / RATE)
        return float(spectrum[(at > low) & (at < high)].sum() / spectrum.sum())

    flute, buzzer, bell, siren = (_tone(event(timbre)) for timbre in TIMBRES)
    assert power(flute, 470, 490) > 0.9
    assert power(buzzer, 1200, 4000) > 0.3  # many harmonics
    assert np.square(bell[:1000]).sum() > 5 * np.square(bell[-1000:]).sum()  # it fades
    assert power(siren, 470, 490) < 0.5  # it sweeps
    assert power(siren, 300, 640) > 0.8


def test_pulsing_is_half_silence_eight_times_a_second() -> None:
    sound = _tone(event("flute", pulsing=True))
    loud = np.abs(sound).reshape(-1, 100).max(1) > 0.1
    assert 0.4 < loud.mean() < 0.7
    assert np.count_nonzero(np.diff(loud.astype(int)) == 1) in (3, 4)  # half a second


def test_shares_that_exceed_one_choice_are_refused() -> None:
    with pytest.raises(ValueError, match="name_one and name_order"):
        sounds(name_one=0.7, name_order=0.6)
