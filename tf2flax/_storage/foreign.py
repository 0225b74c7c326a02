"""Files that are no checkpoint: what they are by their first bytes, what reads them.

One table, `FILES`. It knows no format that tf2flax reads, and opens nothing: whoever
holds the first bytes of a file asks it for words. A new kind is a line of the table,
and a line of `tests/checkpoint/test_foreign.py`.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from typing import Final

# Where a way out has these, the path of the file stands, as a literal of Python, and
# that of what comes out of it.
PATH: Final = "<path>"
_OUT: Final = "<out>"
_READS: Final = " reads it; tf2flax reads checkpoints of TensorFlow and Keras weights."
_UNPACK: Final = (
    f"Unpack it, `tar -xf {PATH}`, and give the prefix of the checkpoint in it."
)
_AGAIN: Final = "Copy the file again."


@dataclasses.dataclass(frozen=True, slots=True)
class ForeignFile:
    """A kind of file that is no checkpoint.

    Attributes:
        kind: What it is, with its article.
        way_out: What reads it, or what to do; `PATH` stands for the file.
        pattern: What its first bytes match; None where its name alone tells.
        endings: Endings of its name. Where there is a pattern, they tell nothing of a
            file, but what a folder may hold.
        replaces: True if it is what a download or a copy leaves in a file's place, so
            that no bytes of tensors look like it.
    """

    kind: str
    way_out: str
    pattern: bytes | None
    endings: tuple[str, ...] = ()
    replaces: bool = False

    def matches(self, head: bytes) -> bool:
        """Tells whether the first bytes of a file are of this kind."""
        # Compiled when it is asked for: importing the package does without.
        return self.pattern is not None and bool(re.match(self.pattern, head, re.S))

    def fix(self, path: str) -> str:
        """What to do about a file, given by its path or URL, in whole sentences."""
        if PATH not in self.way_out:
            return self.way_out
        is_url = "://" in path
        name = path.rpartition("/")[2] if is_url else path
        out = name.removesuffix(".gz")
        out = out if out != name else f"{name}.out"
        fix = self.way_out.replace(PATH, repr(name)).replace(_OUT, repr(out))
        return f"Download it first. {fix}" if is_url else fix


def _replaced(kind: str, way_out: str, pattern: bytes) -> ForeignFile:
    return ForeignFile(kind, way_out, rb"(?i)" + pattern, replaces=True)


def _read_by(reader: str, kind: str, pattern: bytes, *endings: str) -> ForeignFile:
    return ForeignFile(kind, f"`{reader}`{_READS}", pattern or None, endings)


def _other(kind: str, way_out: str, pattern: bytes, *endings: str) -> ForeignFile:
    return ForeignFile(kind, way_out, pattern, endings)


# Asked in this order: certain marks first, then those that other files may have too.
FILES: Final = (
    # What downloads and copies leave in a file's place.
    _replaced(
        "a git-LFS pointer", "Run `git lfs pull`.", rb"\s*version https://git-lf"
    ),
    _replaced("a git-annex pointer", "Run `git annex get`.", rb"/annex/objects/"),
    _replaced(
        "an HTML page",
        "Download the file itself.",
        rb"(\xef\xbb\xbf)?\s*<(!doctype )?html",
    ),
    _replaced(
        "an error page of a store",
        "Ask for a URL that may be read, or give your credentials.",
        rb"\s*(<\?xml[^>]*>\s*)?<error>",
    ),
    _replaced(
        "a file of metadata of macOS",
        "Copy the file without `._`.",
        rb"\x00\x05\x16\x07",
    ),
    # Archives and compressed files.
    _other("a tar archive", _UNPACK, rb".{257}ustar", ".tar", ".tar.gz", ".tgz"),
    _other(
        "a file compressed by bzip2",
        f"Uncompress it, `bunzip2 --keep {PATH}`, and give what comes out.",
        rb"BZh[1-9]1AY&SY",
        ".bz2",
    ),
    _other(
        "a file compressed by xz",
        f"Uncompress it, `unxz --keep {PATH}`, and give what comes out.",
        rb"\xfd7zXZ\x00",
        ".xz",
    ),
    _other(
        "a file compressed by zstd",
        f"Uncompress it, `unzstd {PATH}`, and give what comes out.",
        rb"\x28\xb5\x2f\xfd",
        ".zst",
    ),
    _other(
        "a file compressed by lz4",
        f"Uncompress it, `unlz4 {PATH}`, and give what comes out.",
        rb"\x04\x22\x4d\x18",
        ".lz4",
    ),
    _other(
        "a 7z archive",
        f"Unpack it, `7z x {PATH}`, and give the prefix of the checkpoint in it.",
        rb"7z\xbc\xaf\x27\x1c",
        ".7z",
    ),
    _other(
        "a RAR archive",
        f"Unpack it, `unrar x {PATH}`, and give the prefix of the checkpoint in it.",
        rb"Rar!\x1a\x07",
        ".rar",
    ),
    # Weights of others.
    _read_by(f"numpy.load({PATH})", "an array of NumPy", rb"\x93NUMPY", ".npy"),
    _read_by(
        f"safetensors.numpy.load_file({PATH})",
        "a safetensors file",
        rb".{5}\x00\x00\x00\{",  # the length of a header in JSON, less than 1 TiB
        ".safetensors",
    ),
    _read_by(f"gguf.GGUFReader({PATH})", "a GGUF file", rb"GGUF", ".gguf"),
    _other(
        "a GGML file, as llama.cpp wrote them before GGUF",
        "An old release of llama.cpp reads it: take the weights that it was made of.",
        rb"lmgg|fmgg|tjgg|algg",
        ".ggml",
    ),
    _read_by(
        f"tf.lite.Interpreter({PATH})",
        "a model of TensorFlow Lite",
        rb".{4}TFL3",
        ".tflite",
    ),
    _read_by(
        f"torch.load({PATH}, weights_only=True)",
        "a checkpoint of PyTorch",
        rb"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
        ".pt",
        ".pth",
        "pytorch_model.bin",
    ),
    _read_by(
        f"pickle.loads(pathlib.Path({PATH}).read_bytes())",
        "a pickle of Python",
        rb"\x80[\x02-\x05][\x80-\x98cX}\](\x8a\x8c]",
        ".pkl",
        ".pickle",
    ),
    _read_by(
        f"mxnet.nd.load({PATH})", "a file of MXNet", rb"\x12\x01\x00{6}", ".params"
    ),
    _read_by(
        f"fasttext.load_model({PATH})", "a model of fastText", rb"\xba\x16\x4f\x2f"
    ),
    _read_by(
        f"onnx.load({PATH})",
        "an ONNX model",
        # The version of the format, then the producer or, without one, the graph.
        rb"\x08[\x03-\x20](\x12.(pytorch|tf2onnx|onnx|keras|skl|Oli|paddle)|:)",
        ".onnx",
    ),
    _other(
        "a graph of TensorFlow, whose values, if any, are constants (a frozen graph)",
        "Give the checkpoint that it was made of. `tf.compat.v1.GraphDef.FromString("
        f"pathlib.Path({PATH}).read_bytes())` reads the graph.",
        rb"\x0a.{1,4}\x0a[\x01-\x7f][\w./-]{1,127}\x12[\x01-\x7f][A-Z]\w",
        ".pb",
    ),
    _read_by(
        f"flax.serialization.msgpack_restore(pathlib.Path({PATH}).read_bytes())",
        "a file of MessagePack, as Flax writes it",
        rb"([\x81-\x8f]|\xde..|\xdf.{4})([\xa1-\xbf]|\xd9.)[\w./:-]",
        ".msgpack",
    ),
    # Data.
    _read_by(
        f"scipy.io.loadmat({PATH})", "a file of MATLAB", rb"MATLAB 5\.0 MAT", ".mat"
    ),
    _read_by(
        f"netCDF4.Dataset({PATH})", "a file of NetCDF", rb"CDF[\x01\x02\x05]", ".nc"
    ),
    _read_by(f"pyhdf.SD.SD({PATH})", "a file of HDF4", rb"\x0e\x03\x13\x01", ".hdf"),
    _read_by(f"pandas.read_parquet({PATH})", "a Parquet file", rb"PAR1", ".parquet"),
    _read_by(f"pandas.read_feather({PATH})", "a file of Arrow", rb"ARROW1", ".arrow"),
    _read_by(
        f"sqlite3.connect({PATH})", "a database of SQLite", rb"SQLite format 3\x00"
    ),
    _other(
        "a file of events for TensorBoard",
        f"`tf.compat.v1.train.summary_iterator({PATH})`{_READS}",
        rb"[^\x00].{11}.{9}.{1,3}brain\.Event:",
    ),
    _other("a PDF document", "Download the file itself.", rb"%PDF-"),
    _other("an image", "Give the file of weights.", rb"\x89PNG\r\n|\xff\xd8\xff|GIF8"),
    _other(
        "a program",
        "Give the file of weights.",
        rb"\x7fELF|MZ\x90\x00|\xcf\xfa\xed\xfe",
    ),
    _other(
        "a file whose beginning was never written: it is all zero bytes",
        _AGAIN,
        rb"\x00{64,}\Z",
    ),
)
# A kind that its name alone tells, where the first bytes may be those of any protobuf.
NAMED: Final = (
    _read_by(f"onnx.load({PATH})", "an ONNX model", b"", ".onnx"),
    _read_by(
        f"caffe.Net(prototxt, {PATH}, caffe.TEST)",
        "weights of Caffe",
        b"",
        ".caffemodel",
    ),
    _read_by(f"coremltools.models.MLModel({PATH})", "a Core ML model", b"", ".mlmodel"),
    ForeignFile(
        "a graph of TensorFlow in text",
        "Give the prefix of the checkpoint that belongs to it.",
        None,
        (".pbtxt",),
    ),
    ForeignFile(
        "a vocabulary or text that belongs to a tokenizer",
        "Give the prefix of the checkpoint beside it.",
        None,
        ("vocab.txt", "merges.txt", ".spm", "spiece.model"),
    ),
)
_GZIP: Final = b"\x1f\x8b"
_HDF5: Final = b"\x89HDF\r\n\x1a\n"
# What a text begins with is shown up to this length (letters).
_TEXT_LETTERS: Final = 60


def recognise_wrong_file(head: bytes) -> tuple[str, str] | None:
    """Recognises what a download or a copy leaves in place of a checkpoint's file.

    Args:
        head: The first bytes of the file.

    Returns:
        Its kind, and a way out; None where it is none of these.
    """
    for file in FILES:
        if file.replaces and file.matches(head):
            return file.kind, file.way_out
    return None


def recognise_file(head: bytes, path: str) -> ForeignFile | None:
    """Recognises a file that is no checkpoint.

    Args:
        head: The first bytes of the file, some hundreds at least if it has as many.
        path: Its path or URL, of which the ending tells some kinds.

    Returns:
        Its kind; None where nobody knows it.
    """
    if head.startswith(_GZIP):
        return _compressed(head)
    for file in NAMED:
        if path.endswith(file.endings):
            return file
    for file in FILES:
        if file.matches(head):
            return file
    return _text(head)


def file_of_name(name: str) -> ForeignFile | None:
    """The kind that files of a name usually are; None for no kind."""
    for file in (*NAMED, *FILES):
        if file.endings and name.endswith(file.endings):
            return file
    return None


def _compressed(head: bytes) -> ForeignFile:
    """What gzip compressed, as far as the first bytes show it."""
    try:
        inner = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, 4096)
    except zlib.error:
        return ForeignFile("a damaged gzip file", _AGAIN, None)
    if inner[257:262] == b"ustar":
        return ForeignFile("a tar archive, compressed by gzip", _UNPACK, None)
    kind = "HDF5" if inner.startswith(_HDF5) else ""
    if not kind:
        file = recognise_file(inner, "") if inner else None
        kind = file.kind if file else ""
    return ForeignFile(
        f"compressed by gzip{f' ({kind})' if kind else ''}",
        f"Uncompress it, `gzip -dc {PATH} > {_OUT}`, and give what comes out.",
        None,
    )


def _text(head: bytes) -> ForeignFile | None:
    """A file of text; None where it holds other bytes."""
    for mark in (b"\xff\xfe", b"\xfe\xff"):
        if head.startswith(mark):
            return ForeignFile("a text in UTF-16", "Give the checkpoint's file.", None)
    # The last letter may be cut.
    text = head.decode("utf-8", "replace").removesuffix("\ufffd").lstrip("\ufeff")
    line = text.strip().partition("\n")[0].strip()
    if not line or not all(c.isprintable() or c.isspace() for c in text):
        return None
    if "\ufffd" in text:
        return None
    begin = ascii(line[:_TEXT_LETTERS])[1:-1].replace("`", "'")
    kind = "JSON" if line[0] in "{[" else "a text"
    return ForeignFile(
        f"{kind} that begins `{begin}`",
        "Give the prefix of a checkpoint (its files without `.index`), or download the "
        "file itself.",
        None,
    )
