/** Text, and the sizes that SDXL takes beside it, as a UNet takes them: for caching and for drawing. */
import type { Inputs, Session, Tensor } from '../native.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { CHUNK_TOKENS } from '../options/table.js'
import type { Model, TextEncoding } from './model.js'
import { ownTokens, type Tokenizer } from './tokenizer.js'

/** One text: `context` [tokens, contextDim], and `pooled` [pooledDim] where the model takes it. */
export interface EncodedText {
  context: Float32Array
  pooled?: Float32Array
}

export type TextOptions = Pick<ResolvedTrainOptions, 'clipSkip' | 'maxTokenLength'>

type TextModel = Pick<Model, 'family' | 'tokenizers'>

/** How many chunks a text has, each encoded apart. */
export function chunksOf({ maxTokenLength }: Pick<TextOptions, 'maxTokenLength'>): number {
  return maxTokenLength / CHUNK_TOKENS
}

/** Tokens of a context: the chunks' own, and one BOS and EOS around them all. */
export function contextLength({ family, tokenizers }: TextModel, options: Pick<TextOptions, 'maxTokenLength'>): number {
  return mostTokens(tokenizers[family.text[0]!.network]!, options) + 2
}

/** Returns the settings with which the native side encodes text for a family. */
export function encodeSettings({ skip, norm, pooled }: TextEncoding, clipSkip: number): Record<string, number> {
  return { skip: skip(clipSkip), norm: Number(norm), pooled: Number(pooled) }
}

/**
 * Lists which of the `chunks · length` tokens make a context: the first BOS, each chunk's own tokens, the end of the last
 * (kohya-ss/sd-scripts:library/strategy_sd.py, strategy_sdxl.py).
 */
export function contextRows(chunks: number, length: number): number[] {
  const content = ownTokens({ length })
  const own = Array.from({ length: chunks * content }, (_, i) => Math.floor(i / content) * length + 1 + (i % content))
  return [0, ...own, chunks * length - 1]
}

/** Where the text of the first chunk ends: its pooled state is that of the first EOS, as in kohya. */
export function pooledRow(ids: Int32Array, { eosId }: Pick<Tokenizer, 'eosId'>): number {
  return Math.max(0, ids.indexOf(eosId))
}

/** Joins a text's chunks of hidden states `[chunks · length, width]` to the tokens of one text. */
function joinChunks(states: Float32Array, width: number, { length }: Tokenizer): Float32Array {
  const chunks = states.length / (length * width)
  if (chunks === 1) return states
  const rows = contextRows(chunks, length)
  const joined = new Float32Array(rows.length * width)
  for (const [i, row] of rows.entries()) joined.set(states.subarray(row * width, (row + 1) * width), i * width)
  return joined
}

/** Puts parts `[tokens, width]` side by side along their channels. */
function beside(parts: { width: number; states: Float32Array }[]): Float32Array {
  const [first] = parts
  if (parts.length === 1) return first!.states
  const width = parts.reduce((sum, part) => sum + part.width, 0)
  const tokens = first!.states.length / first!.width
  const joined = new Float32Array(tokens * width)
  let at = 0
  for (const { width: own, states } of parts) {
    for (let t = 0; t < tokens; t++) joined.set(states.subarray(t * own, (t + 1) * own), t * width + at)
    at += own
  }
  return joined
}

/** A text as chunks of ids `[chunks, length]`, and what is made of their hidden states `[chunks · length, width]`. */
export interface Chunks {
  ids: Int32Array
  arrange(states: Float32Array, width: number): Float32Array
}

/** Encodes a text with all encoders of the model's family; its pooled text is the first chunk's. */
export async function encodeChunks(
  session: Pick<Session, 'run'>,
  { family, tokenizers }: TextModel,
  clipSkip: number,
  chunksFor: (tokenizer: Tokenizer, network: string) => Chunks,
): Promise<EncodedText> {
  const parts = []
  let pooled: Float32Array | undefined
  for (const encoding of family.text) {
    const { network } = encoding
    const tokenizer = tokenizers[network]!
    const { ids, arrange } = chunksFor(tokenizer, network)
    const inputs: Inputs = { ids: { shape: [ids.length / tokenizer.length, tokenizer.length], data: ids } }
    if (encoding.pooled) inputs.last = { shape: [1], data: Int32Array.of(pooledRow(ids, tokenizer)) }
    const [states, pool] = await session.run(network, 'encode', inputs, encodeSettings(encoding, clipSkip))
    const width = states!.shape.at(-1)!
    parts.push({ width, states: arrange(states!.data, width) })
    pooled ??= pool?.data
  }
  return { context: beside(parts), ...(pooled ? { pooled } : {}) }
}

/** One text as the chunks of ids `[chunks, length]` of each text encoder, by its network. */
export type TextIds = Record<string, Int32Array>

/** The tokens of a text that are used. */
export interface Tokens {
  ids: TextIds
  /** The text has more than fit into its chunks. */
  cut: boolean
}

/** Returns how many tokens of a text an encoder's chunks hold. */
export function mostTokens(tokenizer: Pick<Tokenizer, 'length'>, options: Pick<TextOptions, 'maxTokenLength'>): number {
  return chunksOf(options) * ownTokens(tokenizer)
}

/** Makes the tokens of a text for all encoders of the model's family. */
export function tokenize({ family, tokenizers }: TextModel, text: string, options: Pick<TextOptions, 'maxTokenLength'>): Tokens {
  const tokens: Tokens = { ids: {}, cut: false }
  for (const { network } of family.text) {
    const tokenizer = tokenizers[network]!
    const most = mostTokens(tokenizer, options)
    const ids = tokenizer.ids(text, most + 1)
    tokens.ids[network] = tokenizer.chunk(ids, chunksOf(options))
    tokens.cut ||= ids.length > most
  }
  return tokens
}

/** Encodes a text as the model's family does it. */
export function encodeText(session: Pick<Session, 'run'>, model: TextModel, ids: TextIds, clipSkip: number): Promise<EncodedText> {
  return encodeChunks(session, model, clipSkip, (tokenizer, network) => ({
    ids: ids[network]!,
    arrange: (states, width) => joinChunks(states, width, tokenizer),
  }))
}

/** Returns the shapes of the inputs of a step that encodes `n` texts: see `Session.load`. */
export function textIdsShapes(model: TextModel, n: number, options: Pick<TextOptions, 'maxTokenLength'>): Record<string, number[]> {
  const shapes: Record<string, number[]> = {}
  for (const { network, pooled } of model.family.text) {
    shapes[`${network}.ids`] = [n * chunksOf(options), model.tokenizers[network]!.length]
    shapes[`${network}.rows`] = [n, contextLength(model, options)]
    if (pooled) shapes[`${network}.last`] = [n]
  }
  return shapes
}

/** Makes the inputs of a step that encodes texts. */
export function textIdsInputs(model: TextModel, texts: TextIds[], options: Pick<TextOptions, 'maxTokenLength'>): Inputs {
  const [shapes, chunks] = [textIdsShapes(model, texts.length, options), chunksOf(options)]
  const inputs: Inputs = {}
  const add = (name: string, data: Int32Array) => (inputs[name] = { shape: shapes[name]!, data })
  for (const { network, pooled } of model.family.text) {
    const tokenizer = model.tokenizers[network]!
    const own = texts.map((ids) => ids[network]!)
    const size = chunks * tokenizer.length
    const rows = contextRows(chunks, tokenizer.length)
    add(`${network}.ids`, join(own))
    add(`${network}.rows`, Int32Array.from(own.flatMap((_, i) => rows.map((row) => i * size + row))))
    if (pooled)
      add(
        `${network}.last`,
        Int32Array.from(own, (ids, i) => i * size + pooledRow(ids, tokenizer)),
      )
  }
  return inputs
}

/** Concatenates arrays of equal length; a single one is returned as it is. */
export function join<Data extends Float32Array | Int32Array>(parts: Data[]): Data {
  const first = parts[0]!
  if (parts.length === 1) return first
  const joined = new (first.constructor as new (length: number) => Data)(first.length * parts.length)
  for (const [i, part] of parts.entries()) joined.set(part, i * first.length)
  return joined
}

/** Makes the inputs of a UNet that are its texts: `context` `[n, tokens, contextDim]`, and `pooled` `[n, pooledDim]`. */
export function textInputs({ contextDim }: Pick<Model, 'contextDim'>, texts: EncodedText[]): Record<string, Tensor> {
  const n = texts.length
  const { context, pooled } = texts[0]!
  return {
    context: { shape: [n, context.length / contextDim, contextDim], data: join(texts.map((text) => text.context)) },
    ...(pooled && { pooled: { shape: [n, pooled.length], data: join(texts.map((text) => text.pooled!)) } }),
  }
}

/** Where a picture of `[height, width]` comes from, as SDXL's UNet takes it: the sizes are in pixels. */
export interface Sizes {
  original: { width: number; height: number }
  /** Where the picture was cut out of the resized image. */
  crop: { left: number; top: number }
  target: { width: number; height: number }
}

/** Numbers of sizes for each picture. */
export const TIME_IDS = 6

/** Writes sizes in SDXL's order (huggingface/diffusers:src/diffusers/pipelines/stable_diffusion_xl, `_get_add_time_ids`). */
export function timeIds({ original, crop, target }: Sizes): Float32Array {
  return Float32Array.of(original.height, original.width, crop.top, crop.left, target.height, target.width)
}
