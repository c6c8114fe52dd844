import type { Session } from '../native.js'
import type { Model } from './model.js'

/** The embeddings `[n, tokens, contextDim]` of texts, as the model's family makes them. */
export async function encodeText(session: Pick<Session, 'run'>, model: Model, texts: string[], clipSkip: number): Promise<Float32Array> {
  const { encoder, droppedLayers } = model.family.text
  const tokenizer = model.tokenizers[encoder]!
  const ids = new Int32Array(texts.length * tokenizer.length)
  for (const [i, text] of texts.entries()) ids.set(tokenizer.encode(text), i * tokenizer.length)
  const inputs = { ids: { shape: [texts.length, tokenizer.length], data: ids } }
  const { data } = await session.run(encoder, 'encode', inputs, { skip: droppedLayers(clipSkip) })
  return data as Float32Array
}
