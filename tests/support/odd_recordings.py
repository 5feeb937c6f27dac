"""Recordings as odd programs write them, each kind once, and what voxshard and other decoders make of them.

    PYTHONPATH=tests python -m support.odd_recordings [SRC]

prints the table of all kinds. SRC is the `src` folder of another version, for a column of what that gives. Kinds that
only ffmpeg can make are left out where it is not installed.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from support.recordings import RATE, encoded, tone
from voxshard.audio import mpeg, ogg

Maker = Callable[[], bytes]
RECORDINGS = Path(__file__).parent.parent / "data" / "recordings"
HAS_FFMPEG = shutil.which("ffmpeg") is not None
RIGHT: dict[str, list[Maker]] = {}
"""Kind -> its maker, and makers of the recordings whose samples, one after the other, it has."""
NAMED: dict[str, tuple[Maker, str]] = {}
"""Kind that is refused, or decoded with a warning -> its maker, and a part of what is said of it."""

ID3 = b"ID3\3\0\0\0\0\2\0" + bytes(256)
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0x80000000) + bytes(8)
TAG = b"TAG" + bytes(125)
LIST = b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf58.29.100\0"
PCM = (tone()[:, 0] * 32767).astype("<i2").tobytes()
FORMAT = struct.pack("<HHIIHH", 1, 1, RATE, RATE * 2, 2, 16)


@functools.cache
def made(container: str, coding: str = "PCM_16", seconds: float = 1.5, rate: int = RATE, channels: int = 1) -> bytes:
    return encoded(container, coding, tone(seconds, rate, channels), rate)


@functools.cache
def by_ffmpeg(extension: str, *options: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{extension}"
        command = ["ffmpeg", "-v", "error", "-i", "pipe:0", *options, str(path)]
        subprocess.run(command, input=made("WAV"), check=True, capture_output=True)
        return path.read_bytes()


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + bytes(len(body) % 2)


def wav(*chunks: bytes, magic: bytes = b"RIFF", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(body) if size is None else size) + body


def ds64(size: int) -> bytes:
    return chunk(b"ds64", struct.pack("<QQQI", size, size, 0, 0))


def with_bytes(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def ogg_pages(content: bytes) -> list[bytes]:
    return [content[start:end] for link in ogg.scan(content).links for start, end in link.pages]


def changed(page: bytes, *, flags: int | None = None, position: int | None = None, shift: int = 0) -> bytes:
    new = bytearray(page)
    if flags is not None:
        new[5] = flags
    found = int.from_bytes(page[6:14], "little", signed=True) if position is None else position
    new[6:14] = (found + shift if found > 0 else found).to_bytes(8, "little", signed=True)
    new[22:26] = bytes(4)
    new[22:26] = ogg.checksum(new).to_bytes(4, "little")
    return bytes(new)


def last_changed(content: bytes, **what: int) -> bytes:
    *pages, last = ogg_pages(content)
    return b"".join([*pages, changed(last, **what)])


def with_total(content: bytes, total: int) -> bytes:
    return with_bytes(content, 21, bytes([content[21] & 0xF0]) + struct.pack(">I", total))


@functools.cache
def bare_mp3(channels: int = 1) -> bytes:
    """MP3 frames without one that has a Xing header."""
    content = made("MP3", "MPEG_LAYER_III", channels=channels)
    return mpeg.scan(content).parts[0].frames_only(content)[0]


def with_vbri(content: bytes) -> bytes:
    """Return MP3 frames behind the header that Fraunhofer's encoder writes: a frame with 32 zero bytes, then VBRI."""
    num_bytes, num_frames = len(content) + 288, mpeg.scan(content).parts[0].num_frames
    header = struct.pack(">4sHHHII", b"VBRI", 1, 1105, 75, num_bytes, num_frames)
    return (b"\xff\xf3\x88\xc4" + bytes(32) + header).ljust(288, b"\0") + content  # 64 kbit/s at 16 kHz, mono


def voc(*blocks: tuple[int, bytes]) -> bytes:
    body = b"".join(bytes([kind]) + struct.pack("<I", len(data))[:3] + data for kind, data in blocks)
    return b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x010A, 0x1129) + body + b"\0"


def right(name: str, content: Maker, *expected: Maker) -> None:
    RIGHT[name] = [content, *expected]


def named(name: str, content: Maker, reason: str) -> None:
    NAMED[name] = (content, reason)


def _wavs() -> None:
    plain = functools.partial(wav, chunk(b"fmt ", FORMAT), chunk(b"data", PCM))
    fmt, extra = (
        chunk(b"fmt ", FORMAT),
        struct.pack("<HHI", 22, 16, 4) + b"\1\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71",
    )
    extensible = chunk(b"fmt ", struct.pack("<H", 0xFFFE) + FORMAT[2:] + extra)
    for size in (0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF):
        unsized = chunk(b"data", PCM, size)
        right(f"wav, size {size:#x}", lambda u=unsized: wav(fmt, u, size=0xFFFFFFFF), plain)
        right(f"wav, size {size:#x}, LIST behind", lambda u=unsized: wav(fmt, u, LIST), plain)
    right("wav, LIST before", lambda: wav(fmt, LIST, chunk(b"data", PCM)), plain)
    right("wav, LIST and id3 behind", lambda: plain() + LIST + chunk(b"id3 ", bytes(5001)), plain)
    right("wav, ID3 in front", lambda: ID3 + plain(), plain)
    right("wav, ID3 in front, twice", lambda: ID3 + plain() + plain(), plain, plain)
    right("wav, extensible", lambda: wav(extensible, chunk(b"data", PCM)), plain)
    right("wav, RIFF size 0", lambda: wav(fmt, chunk(b"data", PCM), size=0), plain)
    right("wav, odd size", lambda: wav(fmt, chunk(b"data", PCM + b"\5")), plain)
    right(
        "wav, byte rate and block size 0",
        lambda: wav(chunk(b"fmt ", FORMAT[:8] + bytes(6) + FORMAT[14:]), chunk(b"data", PCM)),
        plain,
    )
    right("wav, wrong fact", lambda: wav(fmt, chunk(b"fact", bytes(4)), chunk(b"data", PCM)), plain)
    for magic in (b"RF64", b"BW64"):
        for size in (len(PCM), 0, (1 << 64) - 1):
            parts = (ds64(size), fmt, chunk(b"data", PCM, 0xFFFFFFFF))
            make = functools.partial(wav, magic=magic, size=0xFFFFFFFF)
            right(f"{magic.decode()}, size {size:#x}", functools.partial(make, *parts), plain)
            right(f"{magic.decode()}, size {size:#x}, LIST behind", functools.partial(make, *parts, LIST), plain)
    for coding in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"):
        content = made("WAV", coding)
        at = content.index(b"data") + 4
        same = functools.partial(made, "WAV", coding)
        right(f"wav, {coding}, size -1", lambda c=content, a=at: with_bytes(c, a, b"\xff" * 4), same)
        right(f"wav, {coding}, LIST behind", lambda c=content: c + LIST, same)
        right(f"wav, {coding}, fact 0", lambda c=content: with_bytes(c, c.index(b"fact") + 8, bytes(4)), same)
    named("wav, half of its samples", lambda: plain()[:-24000], "truncated: its header promises 24000 more bytes")
    named("wav, 36 bytes too few", lambda: plain()[:-36], "its header promises 36 more bytes")
    named("wav, 5000 bytes behind", lambda: plain() + bytes(5000), "5000 bytes after the samples are not read")
    named("wav, two data chunks", lambda: plain() + chunk(b"data", PCM), "a second data chunk")
    named(
        "RF64, size too small",
        lambda: wav(ds64(8000), fmt, chunk(b"data", PCM, 0xFFFFFFFF), magic=b"RF64"),
        "40000 bytes after the samples are not read",
    )


def _others() -> None:
    for container, coding in (
        ("W64", "IMA_ADPCM"),
        ("AU", "G721_32"),
        ("AU", "G723_24"),
        ("AIFF", "ULAW"),
        ("CAF", "ALAC_16"),
        ("VOC", "PCM_16"),
        ("VOC", "ULAW"),
    ):
        same = functools.partial(made, container, coding)
        right(f"{container}, {coding}, 6 bytes behind", lambda s=same: s() + b"abcde\1", same)
        right(f"{container}, {coding}, twice", lambda s=same: s() + s(), same, same)
    for container in ("AVR", "SVX", "MAT4", "MAT5", "MPC2K", "PAF", "PVF", "IRCAM"):
        named(container, functools.partial(made, container), f"the length of {container} files is not checked")
    named("SDS", functools.partial(made, "SDS"), "a MIDI sample dump")
    eight = (np.frombuffer(PCM, "<i2") // 256 + 128).astype(np.uint8).tobytes()
    sound, more, new = b"\xc2\0", (2, eight[8000:]), struct.pack("<IBBHI", RATE, 16, 1, 4, 0)
    one = functools.partial(voc, (1, sound + eight))
    right("VOC, two blocks", lambda: voc((1, sound + eight[:8000]), more), one)
    right("VOC, two first blocks", lambda: voc((1, sound + eight[:8000]), (1, sound + eight[8000:])), one)
    right("VOC, text between", lambda: voc((1, sound + eight[:8000]), (5, b"word\0"), more), one)
    right(
        "VOC, 16 bits, two blocks",
        lambda: voc((9, new + PCM[:8000]), (2, PCM[8000:])),
        lambda: wav(chunk(b"fmt ", FORMAT), chunk(b"data", PCM)),
    )
    named("VOC, silence", lambda: voc((1, sound + eight), (3, b"\xff\0\xc2")), "VOC with blocks of silence")
    flac = functools.partial(made, "FLAC")
    for total in (0, 8000, 23999):
        right(f"FLAC, counts {total} of 24000", lambda t=total: with_total(flac(), t), flac)
    right("FLAC, ID3 in front, counts 8000", lambda: ID3 + with_total(flac(), 8000), flac)
    right("FLAC, ID3 in front, twice", lambda: ID3 + flac() + flac(), flac, flac)
    right("FLAC, ID3 between two", lambda: flac() + ID3 + flac(), flac, flac)
    right("FLAC, wrong MD5", lambda: with_bytes(flac(), 26, b"\1" * 16), flac)
    right("FLAC, tag and bytes behind", lambda: flac() + TAG + bytes(5000), flac)
    named("FLAC, counts too many", lambda: with_total(flac(), 99000), "the samples end at 1.500 s")
    named("FLAC, cut", lambda: flac()[:-3], "truncated or damaged")


def _oggs() -> None:
    vorbis, opus = (functools.partial(made, "OGG", coding, 4.0) for coding in ("VORBIS", "OPUS"))
    for name, same in (("Vorbis", vorbis), ("Opus", opus)):
        right(f"{name}, chained", lambda s=same: s() + s(), same, same)
        right(f"{name}, ID3 in front, chained", lambda s=same: ID3 + s() + s(), same, same)
        right(f"{name}, no end flag", lambda s=same: last_changed(s(), flags=0), same)
        right(
            f"{name}, recorded broadcast",
            lambda s=same: b"".join(changed(page, shift=10**6) for page in ogg_pages(s())),
            same,
        )
        named(
            f"{name}, last position -1",
            lambda s=same: last_changed(s(), position=-1),
            "its last Ogg page states a wrong position",
        )
        named(f"{name}, damaged page", lambda s=same: with_bytes(s(), len(s()) * 2 // 3, bytes(40)), "truncated")
        named(f"{name}, half", lambda s=same: s()[: len(s()) // 2], "truncated")
        named(
            f"{name}, damaged at its start",
            lambda s=same: with_bytes(s(), len(s()) * 3 // 10, bytes(2)),
            "1 damaged Ogg",
        )
    named("Vorbis, last position too large", lambda: last_changed(vorbis(), position=10**6), "truncated")
    for position in (0, 10**9):
        named(
            f"Opus, last position {position}",
            lambda p=position: last_changed(opus(), position=p),
            "its last Ogg page states a wrong position",
        )
    right(
        "Opus, an empty last page",
        lambda: last_changed(opus(), flags=0) + changed(ogg_pages(opus())[-1][:26] + b"\0", flags=4),
        opus,
    )
    right("Vorbis, then Opus", lambda: vorbis() + opus(), vorbis, opus)
    right(
        "Vorbis, bytes between pages",
        lambda: b"".join([*ogg_pages(vorbis())[:4], bytes(300), *ogg_pages(vorbis())[4:]]),
        vorbis,
    )


def _mpegs() -> None:
    mp3 = functools.partial(made, "MP3", "MPEG_LAYER_III")
    lyrics = b"LYRICSBEGININD0000200000024LYRICS200"
    for name, content in {
        "two ID3 in front": ID3 + ID3 + mp3(),
        "ID3 too small": b"ID3\3\0\0\0\0\1\0" + bytes(500) + mp3(),
        "APE in front": b"APETAGEX" + struct.pack("<IIII", 2000, 100, 1, 0xA0000000) + bytes(108) + mp3(),
        "APE and TAG behind": mp3() + APE + TAG,
        "lyrics and TAG behind": mp3() + lyrics + TAG,
        "ID3 behind": mp3() + ID3,
        "zeros in front": bytes(3000) + mp3(),
        "one byte in front": b"\0" + mp3(),
        "part of a RIFF header in front": b"RIFF" + bytes(40) + mp3(),
    }.items():
        right(f"MP3, {name}", lambda c=content: c, mp3)
    right("MP3, twice", lambda: mp3() + mp3(), mp3, mp3)
    right("MP3, VBRI header", lambda: with_vbri(bare_mp3()), bare_mp3)
    right(
        "MP3 without a header, mono, then stereo",
        lambda: bare_mp3() + bare_mp3(2),
        bare_mp3,
        functools.partial(bare_mp3, 2),
    )
    named(
        "MP3, damaged behind its header",
        lambda: with_bytes(mp3(), len(mp3()) - len(bare_mp3()), b"\0\0"),
        "bytes between MPEG frames are skipped",
    )
    right("MP3, behind a WAV", lambda: made("WAV") + mp3(), functools.partial(made, "WAV"), mp3)
    named(
        "MP3, overwritten inside",
        lambda: with_bytes(mp3(), len(mp3()) // 2, bytes(160)),
        "bytes between MPEG frames are skipped",
    )
    named("MP3, a WAV behind", lambda: mp3() + made("WAV"), "bytes between MPEG frames are skipped")
    named("MP3, bytes behind", lambda: mp3() + b"\xc8\7\x63\xfb" * 300, "bytes between MPEG frames are skipped")
    named("MP3, half", lambda: mp3()[: len(mp3()) // 2], "truncated: its header states 1.500 s")
    for name in sorted(path.name for path in RECORDINGS.iterdir()):
        right(name, (RECORDINGS / name).read_bytes)


def _by_ffmpeg() -> None:
    tta, m4a, wma, wavpack = (functools.partial(by_ffmpeg, name) for name in ("tta", "m4a", "wma", "wv"))
    for name, same in (("m4a", m4a), ("wma", wma), ("tta", tta)):
        named(f"{name}, twice", lambda s=same: s() + s(), "file seems to begin at byte")
    right("wv, tags behind", lambda: wavpack() + APE + TAG, wavpack)
    aac = functools.partial(by_ffmpeg, "aac")
    right("aac, ID3 in front", lambda: ID3 + aac(), aac)
    named("aac, cut", lambda: aac()[:-5], "the last AAC frame is cut")
    named("m4a, half", lambda: m4a()[: len(m4a()) // 2], "truncated: its header promises")
    named(
        "m4a, header first, cut",
        lambda: by_ffmpeg("m4a", "-movflags", "+faststart")[:-3000],
        "its header promises 3000 more",
    )
    for name in ("wma", "avi"):
        same = functools.partial(by_ffmpeg, name)
        named(f"{name}, cut", lambda s=same: s()[: len(s()) * 3 // 4], "truncated: its header promises")
    for name in ("mka", "webm", "flv"):
        same = functools.partial(by_ffmpeg, name, "-ar", "48000" if name != "flv" else "44100")
        gap = functools.partial(lambda s: s()[: len(s()) // 3] + s()[len(s()) // 2 :], same)
        named(f"{name}, a gap inside", gap, "parts may be damaged or missing")
    named("8SVX, twice", lambda: made("SVX") + made("SVX"), "a second IFF file seems to begin")
    inside = functools.partial(by_ffmpeg, "wav", "-c:a", "mp3")
    right("wav, MP3 in it, twice", lambda: inside() + inside(), inside, inside)
    right("wav, MP3 in it, size -1", lambda: with_bytes(inside(), inside().index(b"data") + 4, b"\xff" * 4), inside)


for _makers in (_wavs, _others, _oggs, _mpegs, *([_by_ffmpeg] if HAS_FFMPEG else [])):
    _makers()

_PROBE = """
import json, sys
from pathlib import Path
from voxshard import audio
from voxshard.errors import UtteranceError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        header = audio.probe(path)
        warning = getattr(header, "warning", None)
        samples = audio.read(path, sample_rate=header.sample_rate)
        print(json.dumps(f"{len(samples)}" + (f", warning: {warning}" if warning else "")))
    except UtteranceError as exc:
        print(json.dumps(f"{type(exc).__name__}: {exc}"))
    except Exception as exc:
        print(json.dumps(f"traceback: {exc!r}"))
"""


def _by_voxshard(folder: Path, src: str | None) -> list[str]:
    environment = {**os.environ, **({"PYTHONPATH": src} if src else {})}
    command = [sys.executable, "-c", _PROBE, str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in answer.stdout.splitlines()]


def _by_reference(path: Path) -> str:
    """Number of samples that ffmpeg decodes, or libsndfile where it is not installed."""
    content: Path | io.BytesIO = path
    if HAS_FFMPEG:
        command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", "-"]
        content = io.BytesIO(subprocess.run(command, capture_output=True, check=False).stdout)
    try:
        samples, rate = soundfile.read(content, always_2d=True)
    except soundfile.LibsndfileError:
        return "-"
    return f"{len(samples)} at {rate}"


if __name__ == "__main__":
    makers = {name: made[0] for name, made in (RIGHT | NAMED).items()}
    with tempfile.TemporaryDirectory() as text:
        paths = [Path(text) / f"{number:04d}" for number in range(len(makers))]
        for path, maker in zip(paths, makers.values(), strict=True):
            path.write_bytes(maker())
        columns = [_by_voxshard(Path(text), src) for src in [*sys.argv[1:], None]]
        for *row, path in zip(makers, *columns, paths, strict=True):
            print(*row, _by_reference(path), sep=" | ", flush=True)
