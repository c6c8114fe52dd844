/**
 * Works out networks' configs, as diffusers and transformers write them, from the shapes of weights under LDM's names. What shapes do not
 * tell is the same in all models of a family: SD1 has 8 heads, later UNets and text encoders heads of 64 features, norms 32 groups.
 */
import type { Json } from '../files/json.js'
import { unsupported } from './configs.js'

/** Shapes by names within the network. */
export type Shapes = ReadonlyMap<string, number[]>

const HEADS = 8
const HEAD_SIZE = 64
const GROUPS = 32
/** Sinusoids of each of SDXL's sizes. */
const TIME_EMBED = 256
/** Features of the tokens of OpenCLIP ViT-H/14, the context of SD2, and of ViT-bigG/14, of SDXL's second encoder and of its refiner's only. */
export const OPEN_CLIP_H = 1024
export const OPEN_CLIP_G = 1280

/** Counts from 0 what has a shape. */
function count(has: (i: number) => boolean): number {
  let i = 0
  while (has(i)) i += 1
  return i
}

/** The layers of a transformer; 0 where there is none. */
function depthOf(shapes: Shapes, path: string): number {
  return count((k) => shapes.has(`${path}.transformer_blocks.${k}.attn1.to_q.weight`))
}

/** The channels and the transformers' layers of each level going down, and those going up, from the last level on. */
function levelsOf(shapes: Shapes): { channels: number[]; down: number[][]; up: number[][] } {
  const [channels, down]: [number[], number[][]] = [[], [[]]]
  for (let n = 1; ; n++) {
    const resnet = shapes.get(`input_blocks.${n}.0.in_layers.2.weight`)
    if (resnet) {
      channels[down.length - 1] = resnet[0] as number
      down.at(-1)!.push(depthOf(shapes, `input_blocks.${n}.1`))
    } else if (shapes.has(`input_blocks.${n}.0.op.weight`)) down.push([])
    else break
  }
  const length = down[0]!.length + 1
  const blocks = count((n) => shapes.has(`output_blocks.${n}.0.in_layers.2.weight`))
  const depths = Array.from({ length: blocks }, (_, n) => depthOf(shapes, `output_blocks.${n}.1`))
  const up = Array.from({ length: Math.ceil(blocks / length) }, (_, i) => depths.slice(i * length, (i + 1) * length))
  return { channels, down, up }
}

/**
 * What diffusers calls the layers of transformers: one number a level where that says all, or else a list of each level's. The last level's
 * is that of the middle too.
 */
function transformerLayers(down: number[][], up: number[][], middle: number): Json {
  const last = down.at(-1)![0]!
  if (middle > 0 && last > 0 && middle !== last) {
    throw unsupported(`Expected ${last} transformer layers in the middle of the UNet, as before it, but received ${middle}`)
  }
  const regular = down.every((depths, i) => [...depths, ...up[up.length - 1 - i]!].every((depth) => depth === depths[0]))
  const counts = (levels: number[][], end: number) => levels.map((depths, i) => depths.map((depth) => depth || (i === end && middle) || 1))
  const going = counts(down, down.length - 1)
  if (regular) return { transformer_layers_per_block: going.map(([depth]) => depth) }
  return { transformer_layers_per_block: going, reverse_transformer_layers_per_block: counts(up, 0) }
}

/** What of the middle block is there, in diffusers' words. */
function middleBlock(shapes: Shapes): Json {
  if (shapes.has('middle_block.2.in_layers.2.weight')) return { mid_block_type: 'UNetMidBlock2DCrossAttn' }
  return { mid_block_type: shapes.has('middle_block.0.in_layers.2.weight') ? 'UNetMidBlock2D' : null }
}

/** What the UNet takes beside text and time. */
function additions(shapes: Shapes, context: number): Json {
  const inputs = shapes.get('label_emb.0.0.weight')?.[1]
  if (inputs === undefined) return {}
  // Stable unCLIP, the only kin of SD2 with it, takes an image.
  if (context === OPEN_CLIP_H) return { class_embed_type: 'projection', projection_class_embeddings_input_dim: inputs }
  return { addition_embed_type: 'text_time', addition_time_embed_dim: TIME_EMBED, projection_class_embeddings_input_dim: inputs }
}

/** Returns the config of a UNet; undefined if there is none. Throws `MODEL_UNSUPPORTED` for blocks that diffusers has no words for. */
export function unetLayout(shapes: Shapes, path: string): Json | undefined {
  const first = shapes.get('input_blocks.0.0.weight')
  if (!first) return undefined
  const { channels, down, up } = levelsOf(shapes)
  const [layers, levels] = [down[0]!.length, down.length]
  const isWhole = layers > 0 && channels.length === levels && up.length === levels
  const isEven = down.every(({ length }) => length === layers) && up.every(({ length }) => length === layers + 1)
  const isPlain = [...down, ...up].every((depths) => depths.every((depth) => depth > 0 === depths[0]! > 0))
  const isMirrored = isWhole && down.every(([depth], i) => depth! > 0 === up[levels - 1 - i]![0]! > 0)
  if (!isWhole || !isEven || !isPlain || !isMirrored) {
    throw unsupported(`Expected a UNet of levels with as many blocks each, and as going down so going up, in ${path} but received another`)
  }
  const cross = [...shapes].find(([name]) => name.endsWith('.attn2.to_k.weight'))
  const context = cross?.[1][1] ?? 0
  const projection = [...shapes].find(([name]) => name.endsWith('.1.proj_in.weight'))
  const isLinear = projection?.[1].length === 2
  const fixedSize = isLinear || context === OPEN_CLIP_H || shapes.has('label_emb.0.0.weight')
  const attends = down.map(([depth]) => depth! > 0)
  return {
    _class_name: 'UNet2DConditionModel',
    in_channels: first[1],
    out_channels: shapes.get('out.2.weight')?.[0],
    block_out_channels: channels,
    layers_per_block: layers,
    down_block_types: attends.map((has) => (has ? 'CrossAttnDownBlock2D' : 'DownBlock2D')),
    up_block_types: attends.toReversed().map((has) => (has ? 'CrossAttnUpBlock2D' : 'UpBlock2D')),
    attention_head_dim: fixedSize ? channels.map((width) => Math.max(1, Math.floor(width / HEAD_SIZE))) : HEADS,
    cross_attention_dim: context,
    use_linear_projection: isLinear,
    norm_num_groups: GROUPS,
    ...transformerLayers(down, up, depthOf(shapes, 'middle_block.1')),
    ...middleBlock(shapes),
    ...additions(shapes, context),
  }
}

/** How LDM and diffusers name a resnet of the encoder of a VAE. */
const VAE_RESNETS = [
  (level: number, j: number) => `encoder.down.${level}.block.${j}.conv1.weight`,
  (level: number, j: number) => `encoder.down_blocks.${level}.resnets.${j}.conv1.weight`,
]

/** Returns the config of a VAE under LDM's or diffusers' names; undefined if there is none. */
export function vaeLayout(shapes: Shapes): Json | undefined {
  const resnet = VAE_RESNETS.find((name) => shapes.has(name(0, 0)))
  if (!resnet) return undefined
  const levels = count((level) => shapes.has(resnet(level, 0)))
  return {
    _class_name: 'AutoencoderKL',
    in_channels: shapes.get('encoder.conv_in.weight')?.[1],
    out_channels: shapes.get('decoder.conv_out.weight')?.[0],
    latent_channels: shapes.get('decoder.conv_in.weight')?.[1],
    block_out_channels: Array.from({ length: levels }, (_, level) => shapes.get(resnet(level, 0))![0]),
    layers_per_block: count((j) => shapes.has(resnet(0, j))),
    norm_num_groups: GROUPS,
    use_quant_conv: shapes.has('quant_conv.weight'),
    use_post_quant_conv: shapes.has('post_quant_conv.weight'),
  }
}

/** The layers of OpenCLIP ViT-H/14 that SD2 uses: all but the last one, as its text is the state before it. */
const SD2_LAYERS = 23

function textConfig(tokens: number[] = [], positions: number[] = [], layers: number, intermediate: number[] = [], act: string): Json {
  const [vocab_size, hidden_size = 0] = tokens
  return {
    model_type: 'clip_text_model',
    vocab_size,
    hidden_size,
    intermediate_size: intermediate[0],
    num_hidden_layers: layers,
    num_attention_heads: Math.max(1, Math.floor(hidden_size / HEAD_SIZE)),
    max_position_embeddings: positions[0],
    hidden_act: act,
  }
}

/** Counts the layers of a text encoder that are used. */
function layersOf(shapes: Shapes, layer: (i: number) => string, isSd2: boolean): number {
  const layers = count((i) => shapes.has(layer(i)))
  return isSd2 ? Math.min(layers, SD2_LAYERS) : layers
}

/**
 * Returns the config of CLIP's text encoder under transformers' names; undefined if there is none. `act`: its activation; `isSd2`: without the
 * layer that SD2 does not use.
 */
export function clipLayout(shapes: Shapes, act: 'quick_gelu' | 'gelu', isSd2: boolean): Json | undefined {
  const tokens = shapes.get('text_model.embeddings.token_embedding.weight')
  if (!tokens) return undefined
  const layer = (i: number) => `text_model.encoder.layers.${i}.mlp.fc1.weight`
  const positions = shapes.get('text_model.embeddings.position_embedding.weight')
  const config = textConfig(tokens, positions, layersOf(shapes, layer, isSd2), shapes.get(layer(0)), act)
  const projection = shapes.get('text_projection.weight')
  return { ...config, ...(projection && { projection_dim: projection[0] }) }
}

/** Returns the config of OpenCLIP's text encoder; undefined if there is none. `isSd2`: without the layer that SD2 does not use. */
export function openClipLayout(shapes: Shapes, isSd2: boolean): Json | undefined {
  const tokens = shapes.get('token_embedding.weight')
  if (!tokens) return undefined
  const layer = (i: number) => `transformer.resblocks.${i}.mlp.c_fc.weight`
  const layers = layersOf(shapes, layer, isSd2)
  const config = textConfig(tokens, shapes.get('positional_embedding'), layers, shapes.get(layer(0)), 'gelu')
  // Some files have transformers' matrix, which is turned.
  const projected = shapes.get('text_projection')?.[1] ?? shapes.get('text_projection.weight')?.[0]
  return { ...config, ...(projected !== undefined && !isSd2 && { projection_dim: projected }) }
}
