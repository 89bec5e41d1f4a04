"""modbridge import-weights viecap, on files made as the authors' training makes them, at a small size."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modbridge_viecap.checkpoint import read_checkpoint
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from modbridge.assembly.build import build_component
from modbridge.cli import main
from modbridge.interfaces import BuildContext, Hints, TextVectors
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings
from modbridge.store.artefact import load_weights, read_manifest, read_tensors
from modbridge.testing import build_config, toy_port

State = dict[str, torch.Tensor]
WORDS = "! There are dog cat red blue horse something in image . , a runs fast old picture"  # "!" is 0, as in GPT-2
END = "<|endoftext|>"
WIDTH, DIM, PROJECTED, LENGTH, LAYERS, HIDDEN, HEADS = 16, 8, 3, 4, 2, 24, 4
HINT = "There are dog, cat in image."
TOY = Path(__file__).parents[3] / "tests" / "toy_plugin.py"


def language_model(kind: str, seed: int, size: int = len(WORDS.split()) + 1, width: int = WIDTH) -> Any:
    ends = {"bos_token_id": size - 1, "eos_token_id": size - 1}
    torch.manual_seed(seed)
    if kind == "opt":
        shape = {"hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 24, "num_hidden_layers": 2}
        more = {"num_attention_heads": 2, "max_position_embeddings": 96, "init_std": 0.4, "pad_token_id": size - 1}
        return OPTForCausalLM(OPTConfig(vocab_size=size, dropout=0.0, **shape, **more, **ends)).eval()
    shape = {"n_layer": 2, "n_head": 2, "n_embd": width, "n_positions": 96, "initializer_range": 0.4}
    return GPT2LMHeadModel(GPT2Config(vocab_size=size, **shape, **ends)).eval()


def save_lm(folder: Path, kind: str = "gpt2", more: str = "", width: int = WIDTH) -> Path:
    """A language model of random weights, with its tokenizer, as save_pretrained writes them."""
    names = [*WORDS.split(), *more.split(), END]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END).save_pretrained(folder)
    language_model(kind, seed=1, size=len(names), width=width).save_pretrained(folder)
    return folder


def soft_prompt(seed: int = 3) -> State:
    """Random tensors under the names of the authors' mapping network."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "linear.weight": (PROJECTED * WIDTH, DIM),
        "linear.bias": (PROJECTED * WIDTH,),
        "prefix_const": (LENGTH, WIDTH),
    }
    for n in range(LAYERS):
        block = {
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "attn.to_queries.weight": (WIDTH, WIDTH),
            "attn.to_keys_values.weight": (2 * WIDTH, WIDTH),
            "attn.project.weight": (WIDTH, WIDTH),
            "attn.project.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
            "mlp.fc1.weight": (HIDDEN, WIDTH),
            "mlp.fc1.bias": (HIDDEN,),
            "mlp.fc2.weight": (WIDTH, HIDDEN),
            "mlp.fc2.bias": (WIDTH,),
        }
        shapes |= {f"transformer.layers.{n}.{name}": shape for name, shape in block.items()}
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def prefix_of(state: State, x: torch.Tensor, heads: int = HEADS) -> torch.Tensor:
    """The authors' mapping network by its description: vectors (B, DIM) to prefixes (B, LENGTH, WIDTH)."""
    first = functional.linear(x, state["linear.weight"], state["linear.bias"]).reshape(len(x), -1, WIDTH)
    hidden = torch.cat([first, state["prefix_const"].expand(len(x), -1, -1)], dim=1)
    for n in range(LAYERS):
        w = {
            name.removeprefix(f"transformer.layers.{n}."): value
            for name, value in state.items()
            if name.startswith(f"transformer.layers.{n}.")
        }
        y = functional.layer_norm(hidden, (WIDTH,), w["norm1.weight"], w["norm1.bias"])
        b, m, size = len(x), hidden.shape[1], WIDTH // heads
        queries = (y @ w["attn.to_queries.weight"].T).reshape(b, m, heads, size)
        both = (y @ w["attn.to_keys_values.weight"].T).reshape(b, m, 2, heads, size)
        weights = (torch.einsum("bnhd,bmhd->bnmh", queries, both[:, :, 0]) * size**-0.5).softmax(dim=2)
        mixed = torch.einsum("bnmh,bmhd->bnhd", weights, both[:, :, 1]).reshape(b, m, WIDTH)
        hidden = hidden + mixed @ w["attn.project.weight"].T + w["attn.project.bias"]
        y = functional.layer_norm(hidden, (WIDTH,), w["norm2.weight"], w["norm2.bias"])
        y = (y @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]).relu()
        hidden = hidden + y @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
    return hidden[:, -LENGTH:]


def authors_file(path: Path, kind: str = "gpt2") -> tuple[State, Any]:
    """A checkpoint of the authors' model; gives the state of its soft prompt, and its language model."""
    mapper, lm = soft_prompt(), language_model(kind, seed=2)
    state = {f"gpt.{name}": value for name, value in lm.state_dict().items()}
    if kind == "gpt2":  # as the transformers of their day wrote it
        for n in range(2):
            mask = torch.ones(96, 96, dtype=torch.uint8).tril()[None, None]
            state[f"gpt.transformer.h.{n}.attn.bias"] = mask
            state[f"gpt.transformer.h.{n}.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(state | {f"mapping_network.{name}": value for name, value in mapper.items()}, path)
    return mapper, lm


def run(*arguments: object) -> int:
    return main([str(argument) for argument in ("import-weights", "viecap", *arguments)])


def imported(folder: Path, *more: object, kind: str = "gpt2") -> tuple[State, Any, Path]:
    mapper, lm = authors_file(folder / "prefix-0014.pt", kind)
    given = ("--lm", save_lm(folder / "lm", kind), "--heads", HEADS, "--space", "toy", "--out", folder / "writer")
    assert run(folder / "prefix-0014.pt", *given, *more) == 0
    return mapper, lm, folder / "writer"


def writer_of(folder: Path, **search: Any) -> Any:
    """The writer as a run takes it from its artefact."""
    generate = {"num_beams": 1, "max_new_tokens": 16, "stop": ".", **search}
    block = {"type": "prefix_lm", "weights": str(folder), "generate": generate}
    registry = Plugins.discover().registry
    context = BuildContext(ports={"text": toy_port(DIM)}, artefact=folder)
    writer = build_component(build_config("decoder", block, registry), "decoder", registry, context)
    load_weights(writer, str(folder))
    return writer


def vectors(count: int) -> torch.Tensor:
    return functional.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(5)), dim=1)


def front(layout: str, prefix: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return torch.cat({"soft_first": [prefix, words], "hard_first": [words, prefix], "hard_only": [words]}[layout])


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
@pytest.mark.parametrize("layout", ["soft_first", "hard_first", "hard_only"])
def test_it_writes_what_the_authors_pipeline_writes(layout: str, kind: str, tmp_path: Path) -> None:
    mapper, lm, folder = imported(tmp_path, "--layout", layout, kind=kind)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lm")
    shutil.rmtree(tmp_path / "lm")  # the artefact stands alone
    writer, table = writer_of(folder), lm.get_input_embeddings()
    x = vectors(3)
    hints = [HINT, "There are something in image.", "There are horse in image."]
    prefixes = prefix_of(mapper, x)
    projected = writer.project(x)
    if layout == "hard_only":
        assert projected is None
    else:
        torch.testing.assert_close(projected.detach(), prefixes.flatten(1), atol=1e-5, rtol=1e-5)

    with torch.inference_mode():
        written = writer.decode_hinted(x, x, hints, ["a", "b", "c"], 0)
    ends = [tokenizer.convert_tokens_to_ids("."), tokenizer.eos_token_id]
    for hint, prefix, decoded in zip(hints, prefixes, written, strict=True):
        ids = tokenizer(hint, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            sequence, new, log = front(layout, prefix, table(torch.tensor(ids))), [], 0.0
            while len(new) < 16 and not (new and new[-1] in ends):
                logits = lm(inputs_embeds=sequence[None]).logits[0, -1].log_softmax(0)
                new.append(int(logits.argmax()))
                log += float(logits.max())
                sequence = torch.cat([sequence, table(torch.tensor(new[-1:]))])
        assert decoded.text == tokenizer.decode(new, skip_special_tokens=True)
        assert decoded.score == pytest.approx(log / len(new), abs=1e-4)
    assert len({decoded.text for decoded in written}) > 1


def test_its_loss_is_the_authors_without_token_0(tmp_path: Path) -> None:
    mapper, lm, folder = imported(tmp_path)
    tokenizer, table = AutoTokenizer.from_pretrained(tmp_path / "lm"), lm.get_input_embeddings()
    caption, x = "a red dog ! runs fast .", vectors(1)
    hint, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (HINT, caption))
    assert 0 in said
    with torch.inference_mode():
        words = table(torch.tensor([*hint, *said]))
        logits = lm(inputs_embeds=torch.cat([prefix_of(mapper, x)[0], words])[None]).logits[0]
    begin = LENGTH + len(hint) - 1
    expected = functional.cross_entropy(logits[begin:-1], torch.tensor(said), ignore_index=0)
    embeddings = Embeddings(x, toy_port(DIM), ("a",))
    given = TextVectors(embeddings, lambda rows, epoch: x[list(rows)], Hints(lambda r, e: [HINT], [HINT], HINT, "toy"))
    assert writer_of(folder).text_loss(given, [caption]) == pytest.approx(float(expected), abs=1e-5)


def test_what_the_artefact_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mapper, lm, folder = imported(tmp_path)
    said = capsys.readouterr().out
    count = sum(p.numel() for p in [*mapper.values(), *lm.parameters()])
    assert f"{count:,} parameters, 8-d vectors, prefix of 4 through 2 layers; left out 4 constant buffers" in said
    assert "assumed, for the file does not say: layout soft_first, 4 heads, space toy" in said
    manifest = read_manifest(folder)
    assert (manifest["kind"], manifest["type"], manifest["plugin"]) == ("decoder", "prefix_lm", "modbridge-captioning")
    assert manifest["imported"]["assumed"] == {"layout": "soft_first", "heads": 4, "space": "toy"}
    assert manifest["ports"] == {"text": toy_port(DIM).to_json()}
    config = manifest["config"]
    ratio = HIDDEN / WIDTH
    assert config["mapper"] == {"type": "transformer", "project_length": 3, "layers": 2, "heads": 4, "ratio": ratio}
    assert config["prefix_length"] == LENGTH
    assert config["prompt"]["template"] == "{prefix}{hint}"
    assert (config["train_lm"], config["end_of_sentence"]) == ("full", "authors")
    assert config["generate"] == {"num_beams": 5, "max_new_tokens": 64, "stop": ".", "length_penalty": 1.0}
    tensors = read_tensors(folder / "model.safetensors")
    assert sum(value.numel() for value in tensors.values()) == count  # every weight once, no buffers


def test_where_the_file_was_saved_in_parallel_or_in_halves(tmp_path: Path) -> None:
    _, _, plain = imported(tmp_path)
    wanted = read_tensors(plain / "model.safetensors")
    state = torch.load(tmp_path / "prefix-0014.pt", weights_only=True)
    given = ("--lm", tmp_path / "lm", "--heads", HEADS, "--space", "toy", "--out")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "parallel.pt")
    assert run(tmp_path / "parallel.pt", *given, tmp_path / "parallel") == 0
    found = read_tensors(tmp_path / "parallel" / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    torch.save(half, tmp_path / "half.pt")
    assert run(tmp_path / "half.pt", *given, tmp_path / "half") == 0
    found = read_tensors(tmp_path / "half" / "model.safetensors")
    assert all(torch.equal(found[name], value.half().float()) for name, value in wanted.items())


@pytest.mark.parametrize(("hidden", "width"), [(15, 11), (57, 1600), (1536, 768), (1, 49)])
def test_the_hidden_width_comes_back_from_its_ratio(hidden: int, width: int, tmp_path: Path) -> None:
    """The writer builds it as int(width * ratio); a plain quotient would lose one here and there."""
    state: State = {
        "mapping_network.linear.weight": torch.zeros(width, 1),
        "mapping_network.linear.bias": torch.zeros(width),
        "mapping_network.prefix_const": torch.zeros(1, width),
        "gpt.any": torch.zeros(1),
    }
    block: dict[str, tuple[int, ...]] = {f"norm{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
    block |= {"attn.to_queries.weight": (width, width), "attn.to_keys_values.weight": (2 * width, width)}
    block |= {"attn.project.weight": (width, width), "attn.project.bias": (width,), "mlp.fc2.bias": (width,)}
    block |= {"mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,), "mlp.fc2.weight": (width, hidden)}
    state |= {f"mapping_network.transformer.layers.0.{name}": torch.zeros(shape) for name, shape in block.items()}
    torch.save(state, tmp_path / "model.pt")
    found = read_checkpoint(tmp_path / "model.pt")
    assert int(width * found.ratio) == found.hidden == hidden


# What is refused


def changed(change: Callable[[State], Any]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        torch.save(change(state) or state, path)

    return spoil


def without(name: str) -> Callable[[Path], None]:
    return changed(lambda state: {key: value for key, value in state.items() if key != name})


def having(name: str, value: Any) -> Callable[[Path], None]:
    return changed(lambda state: {**state, name: value})


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def runs_code(path: Path) -> None:
    torch.save({"gpt.transformer.wte.weight": print}, path)


BLOCK, SOFT = "gpt.transformer.h.0.attn", "mapping_network.transformer.layers.1"
UPPER = torch.ones(1, 1, 96, 96).triu()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "there is no file"),
        (cut_short, "cannot be read as a torch file of tensors"),
        (runs_code, "cannot be read as a torch file of tensors"),
        (lambda path: path.write_text("words"), "cannot be read as a torch file of tensors"),
        (lambda path: torch.save([torch.zeros(2)], path), "holds list; expected a model's state"),
        (lambda path: torch.save({"epoch": 3}, path), "holds epoch, which are no tensors"),
        (lambda path: torch.save({"gpt.a": torch.zeros(2)}, path), "holds nothing under mapping_network."),
        (having("clip_project.weight", torch.zeros(2)), "holds clip_project.weight; expected names under"),
        (having("module.gpt.x", torch.zeros(2)), "holds module.gpt.x; expected names under"),
        # The soft prompt
        (without("mapping_network.prefix_const"), "no mapping_network.prefix_const"),
        (without(f"{SOFT}.mlp.fc2.bias"), f"missing: {SOFT}.mlp.fc2.bias."),
        (having(f"{SOFT}.attn.to_queries.bias", torch.zeros(16)), f"unknown: {SOFT}.attn.to_queries.bias."),
        (having(f"{SOFT}.norm1.bias", torch.zeros(8)), f"of another shape: {SOFT}.norm1.bias (8,) for (16,)."),
        (having("mapping_network.prefix_const", torch.zeros(4, 7)), "gives 48 numbers, expected a multiple of 7"),
        (having("mapping_network.prefix_const", torch.zeros(4)), "mapping_network.prefix_const has shape (4,)"),
        (having(f"{SOFT}.norm1.bias", torch.full((16,), torch.nan)), f"NaN or infinity, the first {SOFT}.norm1.bias"),
        # The language model
        (without("gpt.transformer.h.1.mlp.c_fc.bias"), "missing: gpt.transformer.h.1.mlp.c_fc.bias."),
        (having("gpt.transformer.h.2.ln_1.bias", torch.zeros(16)), "unknown: gpt.transformer.h.2.ln_1.bias."),
        (having("gpt.transformer.wpe.weight", torch.zeros(9, 16)), "gpt.transformer.wpe.weight (9, 16) for (96, 16)"),
        (having("gpt.lm_head.weight", torch.zeros(19, 16)), "gpt.lm_head.weight of"),
        # What looks like a constant of an older GPT-2, and is none
        (having(f"{BLOCK}.bias", UPPER), f"unknown: {BLOCK}.bias."),
        (having(f"{BLOCK}.bias", torch.ones(48)), f"unknown: {BLOCK}.bias."),
        (having(f"{BLOCK}.masked_bias", torch.zeros(16)), f"unknown: {BLOCK}.masked_bias."),
        (having(f"{BLOCK}.masked_bias", torch.tensor(0.5)), f"unknown: {BLOCK}.masked_bias."),
        (having("gpt.transformer.h.7.attn.masked_bias", torch.tensor(-1e4)), "h.7.attn.masked_bias."),
    ],
)
def test_foreign_files_are_refused(
    spoil: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prefix-0014.pt"
    authors_file(file)
    spoil(file)
    given = ("--lm", save_lm(tmp_path / "lm"), "--space", "toy", "--out", tmp_path / "writer")
    assert run(file, *given) == 1
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "writer").exists()


def test_another_language_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "prefix-0014.pt", tmp_path / "writer"
    authors_file(file)
    given = ("--space", "toy", "--out", out, "--lm")
    assert run(file, *given, save_lm(tmp_path / "words", more="green")) == 1
    assert "holds a language model with 19 tokens of width 16, but" in (told := capsys.readouterr().err)
    assert "has 20 tokens of width 16. Give the one that it was trained with by --lm" in told
    assert run(file, *given, save_lm(tmp_path / "wide", width=32)) == 1
    assert "has 19 tokens of width 32" in capsys.readouterr().err
    assert run(file, *given, save_lm(tmp_path / "opt", "opt")) == 1
    told = capsys.readouterr().err
    assert "holds another language model than" in told
    assert "missing: gpt.model.decoder.embed_positions.weight" in told
    assert "unknown: gpt.transformer.h.0.attn.c_attn.bias" in told
    assert run(file, *given, tmp_path / "nowhere") == 1
    assert "does not exist" in capsys.readouterr().err
    assert not out.exists()


def test_what_the_options_must_agree_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "prefix-0014.pt", tmp_path / "writer"
    authors_file(file)
    given = ("--lm", save_lm(tmp_path / "lm"), "--out", out)
    assert run(file, *given, "--space", "toy", "--heads", 5) == 1
    assert "--heads: 5 do not divide the soft prompt's width 16" in capsys.readouterr().err
    assert run(file, *given) == 1
    assert "reads vectors of 8 dimensions, and those of open_clip/ViT-B-32/openai have 512" in capsys.readouterr().err
    assert run(file, *given, "--layout", "soft_last") == 1
    assert "soft_last" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    assert run(file, *given, "--space", "toy") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not list(out.iterdir())


# In a run


def test_a_config_takes_it_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authors_file(tmp_path / "prefix-0014.pt")
    lm = save_lm(tmp_path / "lm")
    given = ("--lm", lm, "--space", "toy/colours", "--out", tmp_path / "writer")
    assert run(tmp_path / "prefix-0014.pt", *given) == 0
    lines = []
    for i, (colour, rgb) in enumerate({"red": (220, 30, 30), "blue": (40, 60, 220)}.items()):
        Image.new("RGB", (8, 8), rgb).save(tmp_path / f"{i}.png")
        lines.append(f'{{"image": "{i}.png", "captions": ["a {colour} picture .", "a {colour} horse runs ."]}}\n')
    (tmp_path / "world.jsonl").write_text("".join(lines), encoding="utf-8")
    config = tmp_path / "viecap.yaml"
    config.write_text(
        f"""\
name: imported
data:
  train: {{type: jsonl, path: {tmp_path}/world.jsonl, root: {tmp_path}}}
  test: {{type: jsonl, path: {tmp_path}/world.jsonl, root: {tmp_path}}}
encoder: toy_colours
bridge: identity
decoder:
  type: viecap
  writer: {{type: prefix_lm, weights: {tmp_path}/writer}}
  vocabulary: {{type: names, names: [red, blue, horse], templates: ["a {{}} picture"]}}
  retrieval: {{type: softmax, threshold: 0.0, top_k: 2}}
metrics: [bleu]
""",
        encoding="utf-8",
    )
    more = ["--plugin", str(TOY)]
    shutil.rmtree(lm)
    out = tmp_path / "out"
    assert main(["run", str(config), "--out", str(out), "--cache", str(tmp_path / "cache"), *more]) == 0
    (stored_writer,) = out.rglob("writer/model.safetensors")
    found, wanted = read_tensors(stored_writer), read_tensors(tmp_path / "writer" / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    capsys.readouterr()
    assert main(["check", str(config), "--set", "decoder.layout=hard_first", *more]) == 1
    assert "layout 'hard_first' is the template" in capsys.readouterr().err
    assert main(["check", str(config), "--set", "bridge=c3", *more]) == 1
    assert "centred vectors where raw ones are expected" in capsys.readouterr().err
