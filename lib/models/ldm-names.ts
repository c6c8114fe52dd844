/**
 * Names of modules in LDM's and SGM's checkpoints and in diffusers' and transformers', both ways, computed from a network's blocks
 * (CompVis/stable-diffusion:ldm/modules/diffusionmodules, Stability-AI/generative-models:sgm, mlfoundations/open_clip).
 * kohya's names of SDXL's LoRA modules are those of `unetNames` with underscores.
 */
import type { UNetConfig, VaeConfig } from './configs.js'

type Pair = [ldm: string, diffusers: string]

/** Finds the longest part of a dotted path that is in `names`, and puts its other name in its place. */
function translate(names: Map<string, string>, path: string): string | undefined {
  for (let end = path.length; end > 0; end = path.lastIndexOf('.', end - 1)) {
    const name = names.get(path.slice(0, end))
    if (name !== undefined) return name + path.slice(end)
  }
  return undefined
}

/** Names both ways, of modules and of all that is in them. */
export class Names {
  private readonly toDiffusers: Map<string, string>
  private readonly toLdm: Map<string, string>

  constructor(pairs: Iterable<Pair>) {
    this.toDiffusers = new Map(pairs)
    this.toLdm = new Map([...this.toDiffusers].map(([ldm, diffusers]) => [diffusers, ldm]))
  }

  /** Returns diffusers' path of a module or tensor of an LDM checkpoint; undefined where the network has none. */
  diffusers(ldm: string): string | undefined {
    return translate(this.toDiffusers, ldm)
  }

  /** Returns the path in an LDM checkpoint of a module or tensor of diffusers; undefined where the network has none. */
  ldm(diffusers: string): string | undefined {
    return translate(this.toLdm, diffusers)
  }
}

/** The modules of a block, `[theirs, ours]` relative to it. */
function* inside(ldm: string, diffusers: string, modules: Pair[]): Generator<Pair> {
  for (const [theirs, ours] of modules) yield [`${ldm}.${theirs}`, `${diffusers}.${ours}`]
}

const UNET_ENDS: Pair[] = [
  ['time_embed.0', 'time_embedding.linear_1'],
  ['time_embed.2', 'time_embedding.linear_2'],
  ['label_emb.0.0', 'add_embedding.linear_1'],
  ['label_emb.0.2', 'add_embedding.linear_2'],
  ['input_blocks.0.0', 'conv_in'],
  ['out.0', 'conv_norm_out'],
  ['out.2', 'conv_out'],
]

const UNET_RESNET: Pair[] = [
  ['in_layers.0', 'norm1'],
  ['in_layers.2', 'conv1'],
  ['emb_layers.1', 'time_emb_proj'],
  ['out_layers.0', 'norm2'],
  ['out_layers.3', 'conv2'],
  ['skip_connection', 'conv_shortcut'],
]

/** LDM numbers input and output blocks through all levels, a down-sampler being one of its own, an up-sampler the last part of one. */
function* unetPairs({ layers_per_block: layers, down_block_types: types }: UNetBlocks): Generator<Pair> {
  yield* UNET_ENDS
  const attention = types.map((type) => type.startsWith('CrossAttn'))
  const last = types.length - 1
  for (let level = 0, n = 1; level <= last; level++) {
    for (let j = 0; j < layers; j++, n++) {
      yield* inside(`input_blocks.${n}.0`, `down_blocks.${level}.resnets.${j}`, UNET_RESNET)
      if (attention[level]) yield [`input_blocks.${n}.1`, `down_blocks.${level}.attentions.${j}`]
    }
    if (level < last) yield [`input_blocks.${n++}.0.op`, `down_blocks.${level}.downsamplers.0.conv`]
  }
  yield* inside('middle_block.0', 'mid_block.resnets.0', UNET_RESNET)
  yield ['middle_block.1', 'mid_block.attentions.0']
  yield* inside('middle_block.2', 'mid_block.resnets.1', UNET_RESNET)
  for (let i = 0, n = 0; i <= last; i++) {
    const attends = attention[last - i]
    for (let j = 0; j <= layers; j++, n++) {
      yield* inside(`output_blocks.${n}.0`, `up_blocks.${i}.resnets.${j}`, UNET_RESNET)
      if (attends) yield [`output_blocks.${n}.1`, `up_blocks.${i}.attentions.${j}`]
      if (j === layers && i < last) yield [`output_blocks.${n}.${attends ? 2 : 1}.conv`, `up_blocks.${i}.upsamplers.0.conv`]
    }
  }
}

export type UNetBlocks = Pick<UNetConfig, 'layers_per_block' | 'down_block_types'>

/** Names in a UNet, without `model.diffusion_model.`. */
export function unetNames(blocks: UNetBlocks): Names {
  return new Names(unetPairs(blocks))
}

const VAE_RESNET: Pair[] = ['norm1', 'conv1', 'norm2', 'conv2']
  .map((name): Pair => [name, name])
  .concat([['nin_shortcut', 'conv_shortcut']])

const VAE_ATTENTION: Pair[] = [
  ['norm', 'group_norm'],
  ['q', 'to_q'],
  ['k', 'to_k'],
  ['v', 'to_v'],
  ['proj_out', 'to_out.0'],
]

/** LDM counts the decoder's levels from the pixels, diffusers from the latents. */
function* vaePairs({ block_out_channels: { length: levels }, layers_per_block: layers }: VaeBlocks): Generator<Pair> {
  for (const name of ['quant_conv', 'post_quant_conv']) yield [name, name]
  for (const part of ['encoder', 'decoder']) {
    yield* inside(part, part, [
      ['conv_in', 'conv_in'],
      ['conv_out', 'conv_out'],
      ['norm_out', 'conv_norm_out'],
    ])
    yield* inside(`${part}.mid.block_1`, `${part}.mid_block.resnets.0`, VAE_RESNET)
    yield* inside(`${part}.mid.attn_1`, `${part}.mid_block.attentions.0`, VAE_ATTENTION)
    yield* inside(`${part}.mid.block_2`, `${part}.mid_block.resnets.1`, VAE_RESNET)
  }
  for (let level = 0; level < levels; level++) {
    const [down, up] = [`encoder.down_blocks.${level}`, `decoder.up_blocks.${levels - 1 - level}`]
    for (let j = 0; j < layers; j++) yield* inside(`encoder.down.${level}.block.${j}`, `${down}.resnets.${j}`, VAE_RESNET)
    for (let j = 0; j <= layers; j++) yield* inside(`decoder.up.${level}.block.${j}`, `${up}.resnets.${j}`, VAE_RESNET)
    yield [`encoder.down.${level}.downsample.conv`, `${down}.downsamplers.0.conv`]
    yield [`decoder.up.${level}.upsample.conv`, `${up}.upsamplers.0.conv`]
  }
}

export type VaeBlocks = Pick<VaeConfig, 'block_out_channels' | 'layers_per_block'>

/** Names in a VAE, without `first_stage_model.`. */
export function vaeNames(blocks: VaeBlocks): Names {
  return new Names(vaePairs(blocks))
}

const OPEN_CLIP_LAYER: Pair[] = [
  ['ln_1', 'layer_norm1'],
  ['ln_2', 'layer_norm2'],
  ['attn.out_proj', 'self_attn.out_proj'],
  ['mlp.c_fc', 'mlp.fc1'],
  ['mlp.c_proj', 'mlp.fc2'],
]

/**
 * Names in OpenCLIP's text encoder, without `cond_stage_model.model.` and the like. Left out are `attn.in_proj_weight` and
 * `attn.in_proj_bias`, which hold q, k and v in one, and `text_projection`, which transformers holds transposed.
 */
export function openClipNames(layers: number): Names {
  const pairs: Pair[] = [
    ['token_embedding', 'text_model.embeddings.token_embedding'],
    ['positional_embedding', 'text_model.embeddings.position_embedding.weight'],
    ['ln_final', 'text_model.final_layer_norm'],
  ]
  for (let i = 0; i < layers; i++) pairs.push(...inside(`transformer.resblocks.${i}`, `text_model.encoder.layers.${i}`, OPEN_CLIP_LAYER))
  return new Names(pairs)
}
