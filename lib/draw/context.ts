/** Text as the UNet takes it for drawing: chunks as A1111 makes them, with the weights of words. */
import type { Model } from '../models/model.js'
import { type EncodedText, encodeChunks, join } from '../models/text.js'
import type { Session } from '../native.js'
import { parseEmphasis, toChunks } from './emphasis.js'

type TextModel = Pick<Model, 'family' | 'tokenizers'>

const mean = (values: Float32Array) => values.reduce((sum, value) => sum + value, 0) / values.length

/**
 * Multiplies the embeddings of a chunk `[length, width]` by the weights of its tokens, then all of them so that their mean is what it was,
 * in place (AUTOMATIC1111/stable-diffusion-webui:modules/sd_emphasis.py, EmphasisOriginal).
 */
export function weigh(states: Float32Array, weights: Float32Array): void {
  if (weights.every((weight) => weight === 1)) return
  const width = states.length / weights.length
  const before = mean(states)
  for (let i = 0; i < states.length; i++) states[i] = (states[i] as number) * (weights[Math.floor(i / width)] as number)
  const restored = before / mean(states)
  // Where all weights are 0 there is no mean to restore.
  if (Number.isFinite(restored)) for (let i = 0; i < states.length; i++) states[i] = (states[i] as number) * restored
}

/**
 * Encodes a prompt. Its chunks, each with its BOS and EOS, lie one after the other, as in A1111; for training kohya has one BOS and EOS
 * around all. Throws `PROMPT_INVALID`.
 */
export async function encodePrompt(
  session: Pick<Session, 'run'>,
  model: TextModel,
  prompt: string,
  clipSkip: number,
): Promise<EncodedText> {
  const sections = parseEmphasis(prompt)
  return encodeChunks(session, model, clipSkip, (tokenizer) => {
    const { chunks } = toChunks(sections, tokenizer)
    return {
      ids: join(chunks.map(({ ids }) => ids)),
      arrange(states, width) {
        const size = tokenizer.length * width
        for (const [i, { weights }] of chunks.entries()) weigh(states.subarray(i * size, (i + 1) * size), weights)
        return states
      },
    }
  })
}

/** Whether a prompt has more chunks than are used. Throws `PROMPT_INVALID`. */
export function isCut({ family, tokenizers }: TextModel, prompt: string): boolean {
  const sections = parseEmphasis(prompt)
  return family.text.some(({ network }) => toChunks(sections, tokenizers[network]!).cut)
}
