import assert from 'node:assert/strict'
import { readdir, stat } from 'node:fs/promises'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { readHeader, readTensors } from '../../lib/files/safetensors.js'
import { goldenModel, singleFile } from './hollow.js'

const folder = fileURLToPath(new URL('../../../test/fixtures/single-files/', import.meta.url))

test('single files are filled to the byte', async () => {
  for (const name of await readdir(folder)) {
    const path = await singleFile(name.replace('.hollow.gz', ''))
    assert((await stat(path)).size > 1e6, path)
  }
})

test('a single file holds the numbers of the folder', async () => {
  const [file, unet] = await Promise.all([
    singleFile('sd1.safetensors'),
    goldenModel('golden-sd1-model').then((model) => `${model}/unet/diffusion_pytorch_model.safetensors`),
  ])
  const names = ['model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight', 'model.diffusion_model.out.2.bias']
  const theirs = ['down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight', 'conv_out.bias']
  const [one, other] = [await readTensors(file, names), await readTensors(unet, theirs)]
  for (const [i, name] of names.entries()) assert.deepEqual(one.get(name)!.data, other.get(theirs[i]!)!.data)
  assert.deepEqual((await readHeader(file)).metadata, { format: 'pt' })
})
