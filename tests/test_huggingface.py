"""Local Hugging Face checkpoints in every place that takes one; small random weights in the hub's own format."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as hf

from agent import checkpoint
from agent.backbone import Backbone, pretrained
from agent.encoders.audio import CausalAudioEncoder
from agent.encoders.speech import WhisperSpeech
from agent.encoders.vision import HuggingFaceVision
from agent.pretrained import PretrainedError
from agent.processor import Processor
from agent.tokenizer import load_tokenizer, train_tokenizer
from tests.tiny import SENTENCES, tiny_config, tiny_model, tiny_sample, tiny_spec
from training.collect import collect
from training.settings import compose
from training.stages import start, train
from training.train import TrainError

LANGUAGE = dict(vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
LMS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, **LANGUAGE)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(num_key_value_heads=2, **LANGUAGE)),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(num_key_value_heads=1, head_dim=8, **LANGUAGE)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(num_key_value_heads=1, head_dim=8, layer_types=[
        "sliding_attention", "full_attention"], **LANGUAGE)),  # positions are turned otherwise in each kind of layer
    "sliding": lambda: hf.MistralForCausalLM(hf.MistralConfig(num_key_value_heads=2, sliding_window=16, **LANGUAGE)),
    "yarn": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, max_position_embeddings=256, rope_parameters={
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}, **LANGUAGE)),
    "dynamic": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, max_position_embeddings=128, rope_parameters={
        "rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, **LANGUAGE)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, ffn_dim=48,
                                                  num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=128)),
}
SIGHT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8)
VISION = {
    "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**SIGHT)),
    "clip": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**SIGHT)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**SIGHT)),
}


def saved_lm(name, folder):
    torch.manual_seed(0)
    LMS[name]().save_pretrained(folder)
    train_tokenizer(SENTENCES).save_pretrained(folder)
    return str(folder)


def saved_vision(name, folder):
    torch.manual_seed(0)
    VISION[name]().save_pretrained(folder)
    hf.CLIPImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    return str(folder)


REFUSED = {
    "by halves": lambda: hf.CohereForCausalLM(hf.CohereConfig(num_key_value_heads=2, **LANGUAGE)),
    "by halves.*": lambda: hf.GlmForCausalLM(hf.GlmConfig(num_key_value_heads=2, head_dim=8, pad_token_id=0, **LANGUAGE)),
    "no keys and values": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_backbone_whose_keys_nobody_else_could_attend_to_is_refused(why):
    with pytest.raises(ValueError, match=why):
        Backbone(400, lambda vocabulary: REFUSED[why](), mask="causal")


@pytest.mark.parametrize("name", LMS)
@pytest.mark.parametrize("mask", ["prefix", "causal"])
def test_backbone_from_the_hubs_format_trains_and_acts(tmp_path, name, mask):
    path = saved_lm(name, tmp_path)
    lm = {"_target_": "agent.backbone.pretrained", "path": path}
    backbone = {"_target_": "agent.backbone.Backbone", "mask": mask, "lm": lm}
    torch.manual_seed(0)
    tokenizer = load_tokenizer(path)
    model = checkpoint.new_model(tiny_config(backbone=backbone), tiny_spec(), tokenizer)
    batch = Processor(model.spec, tokenizer, 32)([tiny_sample(np.random.default_rng(i)) for i in range(2)])
    sum(model.loss(batch).values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for n, p in model.backbone.named_parameters()
               if "layers" in n)
    assert model.act(batch).actions.shape == (2, 3, 4, 5)


@pytest.mark.parametrize("name", LMS)
def test_backbone_hears_for_longer_than_it_has_positions(tmp_path, name):
    path = saved_lm(name, tmp_path)
    lm, tokenizer = {"_target_": "agent.backbone.pretrained", "path": path}, load_tokenizer(path)
    backbone = {"_target_": "agent.backbone.Backbone", "mask": "causal", "lm": lm}
    model = checkpoint.new_model(tiny_config(backbone=backbone), tiny_spec(), tokenizer).eval()
    wave = torch.zeros(1, CausalAudioEncoder.CONTEXT + 20 * CausalAudioEncoder.TOKEN, 2)
    states, recalled = torch.zeros(1, 20, len(model.spec.state)), None
    for _ in range(10):
        recalled = model.hear(wave, states, recalled)
    heard = int(recalled.heard)
    assert heard + model.at_once <= model.backbone.longest == 128 if name in ("opt", "dynamic") else heard == 200
    batch = Processor(model.spec, tokenizer, 32)([tiny_sample(np.random.default_rng(0), 1)])
    decisions = [model.act(batch, torch.Generator().manual_seed(0), x).actions for x in (recalled, None)]
    assert torch.isfinite(decisions[0]).all() and not torch.equal(*decisions)


def test_a_backbone_with_too_few_positions_for_a_decision_is_refused(tmp_path):
    lm = {"_target_": "agent.backbone.pretrained", "path": saved_lm("opt", tmp_path)}
    backbone = {"_target_": "agent.backbone.Backbone", "mask": "causal", "lm": lm}
    with pytest.raises(ValueError, match="positions of the backbone, which has 128"):
        checkpoint.new_model(tiny_config(backbone=backbone) | {"horizon": 100}, tiny_spec(), load_tokenizer(tmp_path))


def test_what_is_frozen_thinks_in_training_as_in_use(tmp_path):
    """OPT drops a tenth of what it thinks while it is trained."""
    lm = {"_target_": "agent.backbone.pretrained", "path": saved_lm("opt", tmp_path)}
    tokenizer = load_tokenizer(tmp_path)
    for tune, same in (("frozen", True), ("full", False)):
        backbone = {"_target_": "agent.backbone.Backbone", "mask": "causal", "tune": tune, "lm": lm}
        model = checkpoint.new_model(tiny_config(backbone=backbone), tiny_spec(), tokenizer).train()
        batch = Processor(model.spec, tokenizer, 32)([tiny_sample(np.random.default_rng(0))])
        assert torch.equal(*(model.think(batch).thought.hidden for _ in range(2))) == same


@pytest.mark.parametrize("name", LMS)
def test_backbone_sees_as_the_checkpoint_does(tmp_path, name):
    """With a causal mask and text alone the wrapped model's hidden states are those of transformers itself."""
    path = saved_lm(name, tmp_path)
    lm = hf.AutoModelForCausalLM.from_pretrained(path).eval()
    backbone = Backbone(300, lambda vocabulary: lm, mask="causal").eval()
    ids = torch.arange(2, 12)[None]
    visible = torch.ones(1, 10, 10, dtype=torch.bool)
    ours = backbone(backbone.embed(ids), visible, torch.arange(10)[None])
    theirs = lm(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(ours.hidden, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backbone.logits(ours.hidden), lm(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_saved_in_half_precision_is_computed_in_float32(tmp_path, dtype):
    torch.manual_seed(0)
    LMS["qwen2"]().to(dtype).save_pretrained(tmp_path / "lm")
    VISION["siglip"]().to(dtype).save_pretrained(tmp_path / "eye")
    hf.CLIPImageProcessor().save_pretrained(tmp_path / "eye")
    model, processor, _ = with_pretrained(tmp_path / "lm", tmp_path / "eye")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    batch = processor([tiny_sample(np.random.default_rng(0), 1)])
    sum(model.loss(batch).values()).backward()
    assert torch.isfinite(model.act(batch).actions).all()


def with_pretrained(lm, eye):
    backbone = {"_target_": "agent.backbone.Backbone", "tune": "lora", "lm": {"_target_": "agent.backbone.pretrained",
                                                                            "path": str(lm)}}
    return tiny_model(backbone=backbone, vision={"_target_": "agent.encoders.vision.HuggingFaceVision", "path": str(eye)})


def test_a_checkpoint_is_carried_to_a_machine_without_the_pretrained_folders(tmp_path):
    saved_lm("qwen2", tmp_path / "lm")
    saved_vision("siglip", tmp_path / "eye")
    model, processor, config = with_pretrained(tmp_path / "lm", tmp_path / "eye")
    checkpoint.save(tmp_path / "here", model, config, processor.tokenizer)
    for name in ("lm", "eye"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "here").rename(tmp_path / "there")
    for folder in (tmp_path / "there", tmp_path / "again"):
        carried, processor, page = checkpoint.load(folder)
        batch = processor([tiny_sample(np.random.default_rng(0), 1)])
        a, b = (m.eval().act(batch, torch.Generator().manual_seed(0)).actions for m in (model, carried))
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        if folder.name == "there":
            checkpoint.save(tmp_path / "again", carried, page["model"], processor.tokenizer)
            shutil.rmtree(folder)
    assert not list((tmp_path / "again" / "pretrained").rglob("*.safetensors"))


def test_no_code_that_a_checkpoint_brings_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # were it to ask
    saved_lm("qwen2", tmp_path / "lm")
    saved_vision("siglip", tmp_path / "eye")
    model, processor, config = with_pretrained(tmp_path / "lm", tmp_path / "eye")
    checkpoint.save(tmp_path / "it", model, config, processor.tokenizer)
    eye = tmp_path / "it" / "pretrained" / "vision"
    theirs = json.loads((eye / "config.json").read_text())
    theirs |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.Evil"}}
    (eye / "config.json").write_text(json.dumps(theirs))
    (eye / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nEvilConfig = Evil = object\n")
    with pytest.raises(checkpoint.CheckpointError, match="custom code"):
        checkpoint.load(tmp_path / "it")
    assert not (tmp_path / "ran").exists()


def test_a_head_of_its_own_is_kept(tmp_path):
    lm = hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, tie_word_embeddings=False, **LANGUAGE))
    lm.save_pretrained(tmp_path / "lm")
    lm = {"_target_": "agent.backbone.pretrained", "path": str(tmp_path / "lm")}
    backbone = {"_target_": "agent.backbone.Backbone", "lm": lm}
    model, processor, config = tiny_model(backbone=backbone)
    checkpoint.save(tmp_path / "it", model, config, processor.tokenizer)
    hidden = torch.randn(1, 3, 32)
    torch.testing.assert_close(checkpoint.load(tmp_path / "it")[0].backbone.logits(hidden), model.backbone.logits(hidden))


def test_a_pretrained_folder_that_is_gone_is_named_when_a_checkpoint_needs_it(tmp_path):
    saved_lm("qwen2", tmp_path / "lm")
    saved_vision("siglip", tmp_path / "eye")
    model, processor, config = with_pretrained(tmp_path / "lm", tmp_path / "eye")
    (tmp_path / "eye").rename(tmp_path / "elsewhere")
    with pytest.raises(PretrainedError, match="eye has no config.json any more"):
        checkpoint.save(tmp_path / "it", model, config, processor.tokenizer)
    (tmp_path / "elsewhere").rename(tmp_path / "eye")
    checkpoint.save(tmp_path / "it", model, config, processor.tokenizer)
    shutil.rmtree(tmp_path / "eye")
    checkpoint.save(tmp_path / "it", model, config, processor.tokenizer)  # what it needs is there
    checkpoint.load(tmp_path / "it")


@pytest.mark.parametrize("model, pixels, why", [
    (lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, image_size=32)), True, "no hidden_size"),
    (VISION["siglip"], False, "processor"),
])
def test_an_eye_that_cannot_be_one_is_named(tmp_path, model, pixels, why):
    model().save_pretrained(tmp_path)
    if pixels:
        hf.CLIPImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(PretrainedError, match=why):
        HuggingFaceVision(str(tmp_path))


def test_a_folder_without_weights_is_no_pretrained_model(tmp_path):
    saved_lm("qwen2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(PretrainedError, match="model.safetensors"):
        pretrained(300, str(tmp_path))
    with pytest.raises(PretrainedError, match="path None: a folder"):
        pretrained(300, None)


def test_a_pretrained_lm_reads_with_its_own_tokenizer(tmp_path):
    saved_lm("qwen2", tmp_path)
    cfg = {"seed": 0, "init": None, "tokenizer": None, "model": tiny_config()}
    cfg["model"]["backbone"]["lm"] = {"_target_": "agent.backbone.pretrained", "path": str(tmp_path)}
    _, tokenizer, _ = start(cfg, tiny_spec(), ["other words"])
    assert tokenizer.get_vocab() == load_tokenizer(tmp_path).get_vocab()
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(TrainError, match="tokenizer=FOLDER"):
        start(cfg, tiny_spec(), ["other words"])


def test_a_pretrained_lm_and_eye_are_trained_on_demonstrations_by_their_yaml(tmp_path):
    saved_lm("qwen2", tmp_path / "lm")
    saved_vision("siglip", tmp_path / "eye")
    collect(tmp_path / "demos", ["reach"], 1, {"image_size": 32, "instruct": "text"}, workers=1)
    words = ["model=huggingface", f"model.backbone.lm.path={tmp_path / 'lm'}", f"model.vision.path={tmp_path / 'eye'}",
             "model.image_size=32", f"data={tmp_path / 'demos'}", f"out={tmp_path / 'out'}", "threads=1", "stage.batch=1",
             "stage.schedule.steps=2", "stage.schedule.workers=0"]
    model, *_ = checkpoint.load(train(compose("train", words)))
    assert any("lora" in name for name, _ in model.named_parameters())
    with pytest.raises(PretrainedError, match="path None"):
        train(compose("train", [word for word in words if "lm.path" not in word and not word.startswith("out=")] + [
            f"tokenizer={tmp_path / 'lm'}", f"out={tmp_path / 'without'}"]))


def test_tunes_train_what_they_say(tmp_path):
    path = saved_lm("llama", tmp_path)
    counts = {}
    for tune in ("full", "frozen", "lora"):
        backbone = Backbone(300, lambda vocabulary: hf.AutoModelForCausalLM.from_pretrained(path), tune=tune)
        counts[tune] = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        out = backbone(torch.randn(1, 5, 32), torch.ones(1, 5, 5, dtype=torch.bool), torch.arange(5)[None])
        assert out.hidden.shape == (1, 5, 32) and len(out.keys) == 2
    assert counts["frozen"] == 0 < counts["lora"] < counts["full"]


def test_wrong_choices_are_named(tmp_path):
    path = saved_lm("llama", tmp_path)
    with pytest.raises(ValueError, match="tune 'half'.*full, frozen, lora"):
        Backbone(300, lambda vocabulary: hf.AutoModelForCausalLM.from_pretrained(path), tune="half")
    with pytest.raises(ValueError, match="400 embeddings, but the tokenizer has 500"):
        checkpoint.build({"_target_": "agent.backbone.pretrained", "path": path})(vocabulary=500)


@pytest.mark.parametrize("name", VISION)
def test_vision_from_the_hubs_format(tmp_path, name):
    """Patch tokens in their places: a change in one corner of the image changes that corner's token the most."""
    encoder = HuggingFaceVision(saved_vision(name, tmp_path)).eval()
    images = torch.randint(0, 255, (2, 32, 32, 3), dtype=torch.uint8)
    grid = encoder(images)
    assert grid.shape == (2, 4, 4, 32) and not any(p.requires_grad for p in encoder.parameters())
    other = images.clone()
    other[:, 24:, :8] = 255 - other[:, 24:, :8]
    change = (encoder(other) - grid).square().sum(-1).mean(0)
    assert int(change.flatten().argmax()) == 12
    torch.testing.assert_close(encoder.mean.flatten(), torch.tensor([0.5, 0.4, 0.3]))


def test_model_with_a_pretrained_eye(tmp_path):
    vision = {"_target_": "agent.encoders.vision.HuggingFaceVision", "path": saved_vision("siglip", tmp_path)}
    model, processor, _ = tiny_model(vision=vision)
    losses = model.loss(processor([tiny_sample(np.random.default_rng(0))]))
    assert torch.isfinite(losses["action"])


def test_a_pretrained_eye_with_an_odd_grid_is_joined_by_twos(tmp_path):
    """As DINOv2's of 518 pixels and SigLIP's of 384: the last row and column are joined with nothing."""
    hf.Dinov2Model(hf.Dinov2Config(**SIGHT | {"image_size": 40})).save_pretrained(tmp_path)
    hf.CLIPImageProcessor().save_pretrained(tmp_path)
    joined = {"_target_": "agent.projectors.PixelShuffle", "factor": 2}
    model, processor, _ = tiny_model(vision={"_target_": "agent.encoders.vision.HuggingFaceVision", "path": str(tmp_path)},
                                     projectors={"front": joined, "wrist": joined})
    batch = processor([tiny_sample(np.random.default_rng(0))])
    assert torch.isfinite(model.loss(batch)["action"])
    project, grid = model.projectors["front"], model.vision(batch.images["front"].flatten(0, 1)).requires_grad_()
    tokens = project(grid).unflatten(1, (3, 3))
    assert model.vision.grid == 5 and project.count == 9
    for (row, column), cells in {(0, 1): [[0, 2], [0, 3], [1, 2], [1, 3]], (2, 2): [[4, 4]], (1, 2): [[2, 4], [3, 4]]}.items():
        (change,) = torch.autograd.grad(tokens[0, row, column].sum(), grid, retain_graph=True)
        assert change[0].abs().sum(-1).nonzero().tolist() == cells


def test_whisper_hears_like_the_native_recogniser(tmp_path):
    torch.manual_seed(0)
    config = hf.WhisperConfig(d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1,
                              decoder_attention_heads=2, decoder_ffn_dim=48, num_mel_bins=80)
    hf.WhisperModel(config).save_pretrained(tmp_path)
    hf.WhisperFeatureExtractor(feature_size=80).save_pretrained(tmp_path)
    speech = {"_target_": "agent.encoders.speech.WhisperSpeech", "path": str(tmp_path)}
    model, processor, _ = tiny_model(speech=speech)
    assert isinstance(model.speech, WhisperSpeech)
    rng = np.random.default_rng(0)
    batch = processor([tiny_sample(rng) | {"utterance": rng.normal(size=n)} for n in (16000, 24000)])
    log_probs, frames = model.speech(batch.utterance, batch.utterance_length)
    assert frames.tolist() == [50, 75] and log_probs.shape[2] == len(processor.tokenizer)
    assert torch.isfinite(model.loss(batch)["speech"])
