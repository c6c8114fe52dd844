import type { Session, Tensor } from '../native.js'
import type { Model } from './model.js'

/** Encodes texts to embeddings `[n, tokens, contextDim]`, as the model's family does it. */
export async function encodeText(
  session: Pick<Session, 'run'>,
  model: Pick<Model, 'family' | 'tokenizers'>,
  texts: string[],
  clipSkip: number,
): Promise<Tensor<Float32Array>> {
  const { encoder, droppedLayers } = model.family.text
  const tokenizer = model.tokenizers[encoder]!
  const ids = new Int32Array(texts.length * tokenizer.length)
  for (const [i, text] of texts.entries()) ids.set(tokenizer.encode(text), i * tokenizer.length)
  const inputs = { ids: { shape: [texts.length, tokenizer.length], data: ids } }
  const [context] = await session.run(encoder, 'encode', inputs, { skip: droppedLayers(clipSkip) })
  return context!
}
