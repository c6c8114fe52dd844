import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { readHeader } from '../../../lib/files/safetensors.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${'0'.repeat(64)}\nsize 246144152\n`
const cases: [string, string, RegExp][] = [
  ['a Git LFS pointer', pointer, /received a Git LFS pointer; fetch the file itself with git lfs pull/],
  ['a web page', '\n<!DOCTYPE html>\n<html lang="en"><head>', /received a web page; download the file itself/],
  ['a page of XML', '<?xml version="1.0"?><Error><Code>AccessDenied', /received a web page/],
  [
    'what torch.save writes',
    'PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl',
    /a zip archive, as PyTorch writes pickles; it may run code/,
  ],
  ['what torch.save wrote before 1.6', '\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.', /received a pickle; it may run code/],
  ['a GGUF file', 'GGUF\x03\x00\x00\x00\x00\x00', /received a GGUF file/],
  ['a preview', '\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR', /received a picture/],
  ['the answer of a site', 'Entry not found', /received the text "Entry not found"; download the file again/],
]
for (const [name, text, message] of cases) {
  test(`${name} in place of a safetensors file is named`, async (t) => {
    const path = join(await temporaryFolder(t), 'x.safetensors')
    await writeFile(path, text, 'latin1')
    await assert.rejects(readHeader(path), { name: 'LorafuseError', code: 'SAFETENSORS_INVALID', message })
  })
}

test('a header whose length looks like a pickle or an archive is read', async (t) => {
  const folder = await temporaryFolder(t)
  for (const length of [0x0280, 0x0580]) {
    const path = join(folder, `${length}`)
    const bytes = Buffer.alloc(8 + length, ' ')
    bytes.writeBigUInt64LE(BigInt(length))
    bytes.write('{}', 8)
    await writeFile(path, bytes)
    assert.deepEqual((await readHeader(path)).tensors, [])
  }
})
