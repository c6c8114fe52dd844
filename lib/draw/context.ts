/** Text as the UNet takes it for drawing: chunks as A1111 makes them, with the weights of words. */
import type { Warn } from '../adapters/adapter.js'
import { shown } from '../errors.js'
import type { Model } from '../models/model.js'
import { type EncodedText, encodeChunks, join } from '../models/text.js'
import type { Session } from '../native.js'
import { MOST_CHUNKS, parseEmphasis, toChunks } from './emphasis.js'

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
 * around all. `warn` is told of more chunks than are used. Throws `PROMPT_INVALID`.
 */
export async function encodePrompt(
  session: Pick<Session, 'run'>,
  model: Pick<Model, 'family' | 'tokenizers'>,
  prompt: string,
  clipSkip: number,
  warn: Warn = () => undefined,
): Promise<EncodedText> {
  const sections = parseEmphasis(prompt)
  return encodeChunks(session, model, clipSkip, (tokenizer) => {
    const { chunks, cut } = toChunks(sections, tokenizer)
    const message = `Expected at most ${MOST_CHUNKS} chunks of tokens for the prompt ${shown(prompt)} but received more; those beyond are not used`
    if (cut) warn({ code: 'PROMPT_TOO_LONG', message })
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
