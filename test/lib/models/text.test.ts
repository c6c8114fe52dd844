import assert from 'node:assert/strict'
import { cp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { sd1 } from '../../../lib/models/sd1.js'
import { sdxl } from '../../../lib/models/sdxl.js'
import { contextLength, contextRows, pooledRow, textInputs, timeIds } from '../../../lib/models/text.js'
import { loadTokenizer, type Tokenizer } from '../../../lib/models/tokenizer.js'
import type { Inputs } from '../../../lib/native.js'
import { chunksOf, encodeCaption } from '../../fixtures/clip.js'
import { tiny } from '../../fixtures/lora.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

/** The bundled tokenizer with chunks of 5 tokens, 3 without BOS and EOS, that pads with `padId`, EOS by default. */
async function short(t: TestContext, padId?: number): Promise<Tokenizer> {
  const folder = join(await temporaryFolder(t), 'tokenizer')
  await cp(join(tiny, 'tokenizer'), folder, { recursive: true })
  const { pad_token: _, ...config } = JSON.parse(await readFile(join(folder, 'tokenizer_config.json'), 'utf8')) as Record<string, unknown>
  await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify({ ...config, model_max_length: 5 }))
  return loadTokenizer(folder, padId)
}

test('a long text is cut into chunks with a BOS and an end each, as kohya cuts it', async (t) => {
  const tokenizer = await short(t)
  const { bosId: bos, eosId: eos } = tokenizer
  const [cat] = tokenizer.ids('cat', 9) as [number]
  assert.deepEqual(tokenizer.ids('cat cat cat cat', 3), [cat, cat, cat])
  assert.deepEqual([...chunksOf(tokenizer, 'cat cat cat cat')], [bos, cat, cat, cat, eos])
  assert.deepEqual([...chunksOf(tokenizer, 'cat cat cat cat', 2)], [bos, cat, cat, cat, eos, bos, cat, eos, eos, eos])
  assert.deepEqual([...chunksOf(tokenizer, 'cat', 2)], [bos, cat, eos, eos, eos, bos, eos, eos, eos, eos])
})

test('where padding is no EOS, a chunk behind the text begins with EOS, and a full one ends with it', async (t) => {
  const tokenizer = await short(t, 0)
  const { bosId: bos, eosId: eos } = tokenizer
  const [cat] = tokenizer.ids('cat', 9) as [number]
  assert.deepEqual([...chunksOf(tokenizer, '')], [bos, eos, 0, 0, 0])
  assert.deepEqual([...chunksOf(tokenizer, 'cat cat cat')], [bos, cat, cat, cat, eos])
  assert.deepEqual([...chunksOf(tokenizer, 'cat', 2)], [bos, cat, eos, 0, 0, bos, eos, 0, 0, 0])
  assert.deepEqual([...chunksOf(tokenizer, 'cat cat cat', 2)], [bos, cat, cat, cat, eos, bos, eos, 0, 0, 0])
  assert.deepEqual([...chunksOf(tokenizer, 'cat '.repeat(9), 2)], [bos, cat, cat, cat, eos, bos, cat, cat, cat, eos])
})

test("a context is the first BOS, the chunks' own tokens, and the last end", async () => {
  assert.deepEqual(contextRows(1, 5), [0, 1, 2, 3, 4])
  assert.deepEqual(contextRows(2, 5), [0, 1, 2, 3, 6, 7, 8, 9])
  const model = { family: sd1, tokenizers: { text_encoder: await loadTokenizer(join(tiny, 'tokenizer')) } }
  assert.deepEqual(
    [75, 150, 225].map((maxTokenLength) => contextLength(model, { maxTokenLength })),
    [77, 152, 227],
  )
  assert.equal(pooledRow(Int32Array.of(7, 1, 9, 9, 0), { eosId: 9 }), 2)
})

/** Encoders whose hidden states are the ids, `width` times, and whose pooled text is the id of the row that is pooled. */
function session(widths: Record<string, number>, calls: unknown[] = []) {
  return {
    async run(network: string, name: string, { ids, last }: Inputs, settings?: Record<string, number>) {
      calls.push([network, name, ids!.shape, settings, last && [...last.data]])
      const width = widths[network]!
      const data = Float32Array.from({ length: ids!.data.length * width }, (_, i) => ids!.data[Math.floor(i / width)]! + (i % width) / 10)
      const states = { shape: [...ids!.shape, width], data }
      const pooled = last && { shape: [1, 1], data: Float32Array.of(ids!.data[last.data[0]!]!) }
      return pooled ? [states, pooled] : [states]
    },
  }
}

test("SDXL's context is both encoders' last layer but one side by side, and the text of the second is pooled at its first end", async (t) => {
  const [first, second] = [await short(t), await short(t, 0)]
  const model = { family: sdxl, tokenizers: { text_encoder: first, text_encoder_2: second }, contextDim: 3 }
  const calls: unknown[] = []
  const encode = (maxTokenLength: number) =>
    encodeCaption(session({ text_encoder: 2, text_encoder_2: 1 }, calls), model, 'cat cat cat cat', { clipSkip: 1, maxTokenLength })
  const { bosId: bos, eosId: eos } = first
  const [cat] = first.ids('cat', 9) as [number]
  const expected = (ids: number[], others = ids) => Float32Array.from(ids.flatMap((id, i) => [id, id + 0.1, others[i]!]))

  assert.deepEqual(await encode(75), { context: expected([bos, cat, cat, cat, eos]), pooled: Float32Array.of(eos) })
  assert.deepEqual(calls, [
    ['text_encoder', 'encode', [1, 5], { skip: 1, norm: 0, pooled: 0 }, undefined],
    ['text_encoder_2', 'encode', [1, 5], { skip: 1, norm: 0, pooled: 1 }, [4]],
  ])
  const long = await encode(150)
  assert.deepEqual(long.context, expected([bos, cat, cat, cat, cat, eos, eos, eos], [bos, cat, cat, cat, cat, eos, 0, 0]))
  assert.deepEqual(long.pooled, Float32Array.of(eos))

  const { context, pooled } = textInputs(model, [long, long])
  assert.deepEqual(
    [context!.shape, pooled!.shape],
    [
      [2, 8, 3],
      [2, 1],
    ],
  )
})

test('a clip skip of SDXL is its last layer but one, whether it is 1 or 2', () => {
  for (const { skip } of sdxl.text) assert.deepEqual([skip(1), skip(2)], [1, 1])
  assert.deepEqual([sd1.text[0]!.skip(1), sd1.text[0]!.skip(2)], [0, 1])
})

test('sizes are height before width: of the image, of where it was cut, of the picture', () => {
  const sizes = { original: { width: 1, height: 2 }, crop: { left: 3, top: 4 }, target: { width: 5, height: 6 } }
  assert.deepEqual([...timeIds(sizes)], [2, 1, 4, 3, 6, 5])
})
