import assert from 'node:assert/strict'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import fc from 'fast-check'
import { loadTokenizer, type Tokenizer } from '../../../lib/models/tokenizer.js'
import { chunksOf, writeClipVocabulary } from '../../fixtures/clip.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const root = fileURLToPath(new URL('../../../..', import.meta.url))
const tiny = join(root, 'examples/tiny-sd/tokenizer')

/** Made by scripts/goldens/tokenizer.py: ids with BOS and EOS, truncated to 77, without padding. */
interface Golden {
  texts: string[]
  ids: { tiny: number[][]; clip: number[][] }
}

const golden = JSON.parse(gunzipSync(await readFile(join(root, 'test/fixtures/tokenizer.json.gz'))).toString()) as Golden

function assertEqualIds(tokenizer: Tokenizer, expected: number[][]): void {
  golden.texts.forEach((text, i) => {
    const ids = expected[i] as number[]
    // EOS is the padding of both vocabularies.
    const padded = [...ids, ...new Array<number>(77 - ids.length).fill(ids.at(-1) as number)]
    assert.deepEqual([...chunksOf(tokenizer, text)], padded, `text ${i}: ${JSON.stringify(text)}`)
  })
}

test('ids equal CLIPTokenizer on 1,000 strings with the bundled vocabulary', async () => {
  assert.equal(golden.texts.length, 1000)
  assertEqualIds(await loadTokenizer(tiny), golden.ids.tiny)
})

test('of the tokens of a text no more are made than asked for', async () => {
  const tokenizer = await loadTokenizer(tiny)
  const count = (text: string) => tokenizer.ids(text, 76).length
  assert.equal(count(''), 0)
  const one = count('cat')
  assert.ok(one >= 1)
  assert.equal(count('cat '.repeat(20)), 20 * one)
  assert.equal(count('cat '.repeat(100)), 76)
})

/** Writes the bundled vocabulary with the length of a tokenizer that takes a whole text. */
async function writeWhole(folder: string): Promise<Tokenizer> {
  for (const name of ['vocab.json', 'merges.txt']) await copyFile(join(tiny, name), join(folder, name))
  await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify({ model_max_length: 20_000 }))
  return loadTokenizer(folder)
}

test('the ids of a long text are those that it has when all of it is tokenized', async (t) => {
  const [tokenizer, whole] = [await loadTokenizer(tiny), await writeWhole(await temporaryFolder(t))]
  const words = [
    'cat',
    "it's",
    "''s",
    ' ',
    '\u2003',
    '\n',
    '\ufeff',
    '\u0301',
    '猫猫',
    'é',
    'ᾂ',
    'Σς',
    '한',
    '2024',
    ',,',
    '<|endoftext|>',
    '🎨',
  ]
  const piece = fc.oneof(fc.constantFrom(...words), fc.string({ unit: 'grapheme', maxLength: 8 }))
  const part = fc.tuple(piece, fc.integer({ min: 1, max: 400 })).map(([text, times]) => text.repeat(times))
  const property = fc.property(fc.array(part, { minLength: 1, maxLength: 12 }), (parts) => {
    const text = parts.join('')
    const [ids, all] = [chunksOf(tokenizer, text), chunksOf(whole, text)]
    const count = whole.ids(text, 76).length
    assert.deepEqual(ids.subarray(0, 1 + Math.min(75, count)), all.subarray(0, 1 + Math.min(75, count)))
    assert.equal(tokenizer.ids(text, 76).length, count)
  })
  fc.assert(property, { numRuns: 60 })
})

test('a text of any length takes little time', async () => {
  const tokenizer = await loadTokenizer(tiny)
  for (const text of ['cat, '.repeat(2e5), 'cat'.repeat(3e5), '猫'.repeat(1e6), ' '.repeat(1e6)]) {
    // Of the processor, whatever else the machine does.
    const began = process.cpuUsage()
    chunksOf(tokenizer, text)
    const milliseconds = process.cpuUsage(began).user / 1000
    assert.ok(milliseconds < 1000, `${text.slice(0, 3)} takes ${milliseconds} ms`)
  }
})

test('tokenizer.json alone gives the same ids', async (t) => {
  const folder = await temporaryFolder(t)
  await copyFile(join(tiny, 'tokenizer.json'), join(folder, 'tokenizer.json'))
  assertEqualIds(await loadTokenizer(folder), golden.ids.tiny)
})

test('ids equal CLIPTokenizer on 1,000 strings with the vocabulary of SD1.5', async (t) => {
  const folder = await temporaryFolder(t)
  await writeClipVocabulary(folder)
  const tokenizer = await loadTokenizer(folder)
  assert.equal(tokenizer.length, 77)
  assert.deepEqual([...chunksOf(tokenizer, 'a photo of a cat')].slice(0, 8), [49_406, 320, 1125, 539, 320, 2368, 49_407, 49_407])
  assertEqualIds(tokenizer, golden.ids.clip)
})

test('a text that is a special token only in lower case is spelt out, as transformers does', async () => {
  const tokenizer = await loadTokenizer(tiny)
  assert.deepEqual([...chunksOf(tokenizer, '<|EndOfText|>')].slice(0, 13), [1265, 27, 347, 633, 629, 69, 83, 68, 87, 339, 91, 285, 1266])
  assert.deepEqual([...chunksOf(tokenizer, '<|endoftext|>')].slice(0, 3), [1265, 1266, 1266])
})

test('the padding token is the one the folder names', async (t) => {
  const folder = await temporaryFolder(t)
  for (const name of ['vocab.json', 'merges.txt']) await copyFile(join(tiny, name), join(folder, name))
  await writeFile(join(folder, 'special_tokens_map.json'), JSON.stringify({ pad_token: { content: '!', normalized: false } }))
  const ids = chunksOf(await loadTokenizer(folder), '')
  assert.deepEqual([...ids.subarray(0, 4)], [1265, 1266, 0, 0])
})

/** Made by scripts/goldens/tokenizer.py: tokens added to the bundled vocabulary; `tokenizer.json` stands for the bundled one with more tokens. */
interface AddedGolden {
  texts: string[]
  cases: { files: Record<string, unknown>; ids: number[][] }[]
}

async function writeAdded(t: TestContext, files: Record<string, unknown>): Promise<string> {
  const folder = await temporaryFolder(t)
  for (const name of files['tokenizer.json'] ? [] : ['vocab.json', 'merges.txt']) await copyFile(join(tiny, name), join(folder, name))
  for (const [name, value] of Object.entries(files)) {
    const whole = name === 'tokenizer.json' && (JSON.parse(await readFile(join(tiny, name), 'utf8')) as { added_tokens: unknown[] })
    const content = whole ? { ...whole, added_tokens: [...whole.added_tokens, ...(value as unknown[])] } : value
    await writeFile(join(folder, name), JSON.stringify(content))
  }
  return folder
}

test('tokens that files add have their ids wherever CLIPTokenizer finds them', async (t) => {
  const golden = JSON.parse(gunzipSync(await readFile(join(root, 'test/fixtures/added-tokens.json.gz'))).toString()) as AddedGolden
  for (const { files, ids } of golden.cases) {
    const tokenizer = await loadTokenizer(await writeAdded(t, files))
    assert.ok(tokenizer.vocabulary >= 1270)
    golden.texts.forEach((text, i) => {
      const expected = ids[i]!.slice(1, -1)
      assert.deepEqual(tokenizer.ids(text, 75), expected, `${Object.keys(files)} ${JSON.stringify(text)}`)
    })
  }
})

test('a token that tokenizer.json alone adds counts beside vocab.json, too', async (t) => {
  const folder = await writeAdded(t, { 'tokenizer.json': [{ id: 1267, content: '<x>', normalized: true }] })
  for (const name of ['vocab.json', 'merges.txt']) await copyFile(join(tiny, name), join(folder, name))
  assert.deepEqual((await loadTokenizer(folder)).ids('a <X>', 9), [320, 1267])
})

test('an added token that is the padding, too, and one that is a word that pads', async (t) => {
  const pad = await loadTokenizer(
    await writeAdded(t, { 'added_tokens.json': { '<pad>': 1300 }, 'special_tokens_map.json': { pad_token: '<pad>' } }),
  )
  assert.deepEqual([pad.padId, pad.vocabulary, ...pad.ids('a <pad>', 9)], [1300, 1301, 320, 1300])
  // transformers would take every ! of a caption for padding; A1111 and ComfyUI do not.
  const added = { added_tokens_decoder: { 0: { content: '!', special: true } }, pad_token: '!' }
  const word = await loadTokenizer(await writeAdded(t, { 'tokenizer_config.json': added }))
  assert.deepEqual([word.padId, ...word.ids('a !', 9)], [0, 320, 256])
})

test('added tokens that make no sense are refused', async (t) => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ 'added_tokens.json': { '<x>': -1 } }, /-1 as the id of the added token "<x>"/],
    [{ 'added_tokens.json': { '<x>': '7' } }, /"7" as the id/],
    [{ 'added_tokens.json': { ' ': 1267 } }, /" " as an added token/],
    [{ 'added_tokens.json': { '<|endoftext|>': 5 } }, /two ids, 1266 and 5, of the added token "<\|endoftext\|>"/],
    [{ 'tokenizer_config.json': { added_tokens_decoder: { x: { content: '<x>' } } } }, /NaN as the id/],
    [{ 'tokenizer_config.json': { added_tokens_decoder: { 1267: { text: '<x>' } } } }, /undefined as an added token/],
    [{ 'special_tokens_map.json': { additional_special_tokens: ['<x>'] } }, /the special token "<x>" without an id/],
    [{ 'tokenizer.json': [7] }, /7 as an added token/],
    [{ 'added_tokens.json': { ['x'.repeat(1025)]: 1267 } }, /an added token of 1025 characters, which may have 1024,/],
    [
      { 'added_tokens.json': Object.fromEntries(Array.from({ length: 1100 }, (_, i) => [`${i}`.padEnd(1000, 'x'), 1267 + i])) },
      /added tokens of 1100000 characters, which together may have 1048576,/,
    ],
    [
      { 'added_tokens.json': Object.fromEntries(Array.from({ length: 200_000 }, (_, i) => [`<t${i}>`, 1267 + i])) },
      /added tokens of 1688890 characters, which together may have 1048576,/,
    ],
    [{ 'tokenizer_config.json': { model_max_length: 2 } }, /2 as model_max_length/],
  ]
  for (const [files, message] of cases) {
    await assert.rejects(loadTokenizer(await writeAdded(t, files)), { code: 'TOKENIZER_INVALID', message })
  }
})

test('a folder without a vocabulary is named', async (t) => {
  const folder = await temporaryFolder(t)
  await assert.rejects(loadTokenizer(folder), { name: 'LorafuseError', code: 'MODEL_INCOMPLETE', message: new RegExp(folder) })
})

test('broken or foreign tokenizers are refused', async (t) => {
  const folder = await temporaryFolder(t)
  const path = join(folder, 'tokenizer.json')
  const cases = ['{', '[]', '{}', JSON.stringify({ model: { type: 'WordPiece', vocab: { a: 0 } } })]
  const bpe = (model: object) => JSON.stringify({ model: { end_of_word_suffix: '</w>', merges: [], vocab: { a: 0 }, ...model } })
  const ends = { '<|startoftext|>': 0, '<|endoftext|>': 1 }
  cases.push(bpe({}), bpe({ vocab: { ...ends, a: -1 } }), bpe({ vocab: { ...ends, a: 2 ** 40 } }), bpe({ vocab: 'a' }))
  for (const merges of ['a b', {}, [1], [['a']], ['a'], ['a b c'], [[1, 2]], [null]]) cases.push(bpe({ vocab: ends, merges }))
  for (const text of cases) {
    await writeFile(path, text)
    await assert.rejects(loadTokenizer(folder), { code: 'TOKENIZER_INVALID' }, text)
  }
})

test('a vocabulary in which tokens share an id is refused', async (t) => {
  const folder = await temporaryFolder(t)
  const vocab = JSON.parse(await readFile(join(tiny, 'vocab.json'), 'utf8')) as Record<string, number>
  const path = join(folder, 'vocab.json')
  await copyFile(join(tiny, 'merges.txt'), join(folder, 'merges.txt'))
  for (const [changed, id] of [
    [Object.fromEntries(Object.keys(vocab).map((token) => [token, 0])), 0],
    [{ ...vocab, '<|endoftext|>': 7 }, 7],
  ] as const) {
    await writeFile(path, JSON.stringify(changed))
    const message = `Expected CLIP's byte-level BPE for ${path} but received the token id ${id} for more than one token`
    await assert.rejects(loadTokenizer(folder), { code: 'TOKENIZER_INVALID', message })
  }
})

test('what stands in place of merges.txt is not taken for merges', async (t) => {
  const folder = await temporaryFolder(t)
  await copyFile(join(tiny, 'vocab.json'), join(folder, 'vocab.json'))
  const others = [
    'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n',
    '<!doctype html>\n<html>',
    'Entry not found',
    'zz qq',
  ]
  for (const text of others) {
    await writeFile(join(folder, 'merges.txt'), text)
    await assert.rejects(loadTokenizer(folder), { code: 'TOKENIZER_INVALID', message: /merges\.txt but received the merge "/ }, text)
  }
})
