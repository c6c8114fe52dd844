/**
 * The names of the weights that a network's graph reads, worked out from its config as `native/model` does, so that no others are dropped in
 * silence.
 */
import type { Network, NetworkConfig } from '../native.js'
import type { TextEncoderConfig, UNetConfig, VaeConfig } from './configs.js'

type Names = Generator<string>

const range = (length: number) => Array.from({ length }, (_, i) => i)

/** A layer's weight and bias. */
function* layers(path: string, names: string[]): Names {
  for (const name of names) yield* [`${path}${name}.weight`, `${path}${name}.bias`]
}

/** `conv_shortcut` is there where the width changes. */
const RESNET = ['norm1', 'conv1', 'norm2', 'conv2', 'conv_shortcut']
const TIMED_RESNET = [...RESNET, 'time_emb_proj']
const TRANSFORMER = ['norm', 'proj_in', 'proj_out']
const TRANSFORMER_LAYER = ['norm1', 'norm2', 'norm3', 'attn1.to_out.0', 'attn2.to_out.0', 'ff.net.0.proj', 'ff.net.2']

function* transformer(path: string, depth: number): Names {
  yield* layers(`${path}.`, TRANSFORMER)
  for (const i of range(depth)) {
    const layer = `${path}.transformer_blocks.${i}.`
    yield* layers(layer, TRANSFORMER_LAYER)
    for (const name of ['attn1', 'attn2']) for (const part of ['q', 'k', 'v']) yield `${layer}${name}.to_${part}.weight`
  }
}

/** How many layers each transformer has, by block: `counts` has a number a block, or one a transformer. */
function depths(counts: number[], blocks: number, each: number): number[][] {
  const isRegular = counts.length === blocks
  return range(blocks).map((i) => range(each).map((j) => (isRegular ? counts[i] : counts[i * each + j]) as number))
}

function* unetWeights(config: UNetConfig): Names {
  const { down_block_types: downTypes, up_block_types: upTypes, layers_per_block: each } = config
  const levels = downTypes.length
  const { mid_block_type: middle, addition_time_embed_dim: timeIds, ...rest } = config as NetworkConfig
  const counts = rest.transformer_layers_per_block as number[]
  const reversed = rest.reverse_transformer_layers_per_block as number[] | undefined
  const down = depths(counts, levels, each)
  const up = depths(reversed ?? counts.toReversed(), levels, each + 1)
  yield* layers('', ['conv_in', 'conv_norm_out', 'conv_out', 'time_embedding.linear_1', 'time_embedding.linear_2'])
  if (timeIds !== undefined) yield* layers('', ['add_embedding.linear_1', 'add_embedding.linear_2'])
  function* block(path: string, type: string, depth: number[]): Names {
    for (const [j, count] of depth.entries()) {
      yield* layers(`${path}.resnets.${j}.`, TIMED_RESNET)
      if (type.startsWith('CrossAttn')) yield* transformer(`${path}.attentions.${j}`, count)
    }
  }
  for (const i of range(levels)) {
    yield* block(`down_blocks.${i}`, downTypes[i]!, down[i]!)
    yield* block(`up_blocks.${i}`, upTypes[i]!, up[i]!)
    if (i < levels - 1) yield* layers('', [`down_blocks.${i}.downsamplers.0.conv`, `up_blocks.${i}.upsamplers.0.conv`])
  }
  if (middle === 'None') return
  yield* layers('mid_block.resnets.0.', TIMED_RESNET)
  if (middle !== undefined) return
  yield* transformer('mid_block.attentions.0', down.at(-1)![0]!)
  yield* layers('mid_block.resnets.1.', TIMED_RESNET)
}

function* vaeWeights({ block_out_channels: { length: levels }, layers_per_block: each }: VaeConfig): Names {
  yield* layers('', ['quant_conv', 'post_quant_conv'])
  for (const part of ['encoder', 'decoder']) {
    yield* layers(`${part}.`, ['conv_in', 'conv_norm_out', 'conv_out'])
    for (const j of [0, 1]) yield* layers(`${part}.mid_block.resnets.${j}.`, RESNET)
    yield* layers(`${part}.mid_block.attentions.0.`, ['group_norm', 'to_q', 'to_k', 'to_v', 'to_out.0'])
  }
  for (const i of range(levels)) {
    const [down, up] = [`encoder.down_blocks.${i}`, `decoder.up_blocks.${i}`]
    for (const j of range(each)) yield* layers(`${down}.resnets.${j}.`, RESNET)
    for (const j of range(each + 1)) yield* layers(`${up}.resnets.${j}.`, RESNET)
    if (i < levels - 1) yield* layers('', [`${down}.downsamplers.0.conv`, `${up}.upsamplers.0.conv`])
  }
}

const CLIP_LAYER = ['q_proj', 'k_proj', 'v_proj', 'out_proj'].map((name) => `self_attn.${name}`)
const REST_OF_LAYER = ['layer_norm1', 'layer_norm2', 'mlp.fc1', 'mlp.fc2']

/** The projection is read where the text is pooled; files of other encoders may have it too. */
function* clipWeights({ num_hidden_layers: count }: TextEncoderConfig): Names {
  yield* ['token_embedding', 'position_embedding'].map((name) => `text_model.embeddings.${name}.weight`)
  for (const i of range(count)) yield* layers(`text_model.encoder.layers.${i}.`, [...CLIP_LAYER, ...REST_OF_LAYER])
  yield* layers('text_model.', ['final_layer_norm'])
  yield* ['text_projection', 'text_projection.weight']
}

const WEIGHTS = { unet: unetWeights, vae: vaeWeights, clip: clipWeights } as Record<
  Network['architecture'],
  (config: NetworkConfig) => Names
>

/** Returns the names of the weights that a network's graph reads. */
export function weightNames({ architecture, config }: Pick<Network, 'architecture' | 'config'>): Set<string> {
  return new Set(WEIGHTS[architecture](config))
}
