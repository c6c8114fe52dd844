import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type Names, openClipNames, unetNames, vaeNames } from '../../../lib/models/ldm-names.js'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
const read = <Json>(name: string) => JSON.parse(readFileSync(`${root}test/fixtures/golden-names/${name}.json`, 'utf8')) as Json
const golden = read<Record<string, Record<string, string>>>('ldm')

const [cross, plain] = ['CrossAttnDownBlock2D', 'DownBlock2D']
const sd15 = unetNames({ layers_per_block: 2, down_block_types: [cross, cross, cross, plain] })
const sdxl = unetNames({ layers_per_block: 2, down_block_types: [plain, cross, cross] })
const networks: Record<string, Names> = {
  sd15,
  sdxl,
  vae: vaeNames({ block_out_channels: [128, 256, 512, 512], layers_per_block: 2 }),
  openclip: openClipNames(2),
}

for (const [network, names] of Object.entries(networks)) {
  test(`modules of ${network} have the names that diffusers' scripts give them, both ways`, () => {
    for (const [diffusers, ldm] of Object.entries(golden[network]!)) {
      // A parameter of its own in LDM, a module's weight in transformers.
      const [theirs, ours] = ldm === 'positional_embedding' ? [ldm, `${diffusers}.weight`] : [`${ldm}.weight`, `${diffusers}.weight`]
      assert.equal(names.ldm(ours), theirs)
      assert.equal(names.diffusers(theirs), ours)
    }
  })
}

test('every tensor of a UNet has one name of its own, and what is inside of a transformer keeps its name', () => {
  for (const [network, names] of Object.entries({ sd15, sdxl })) {
    const tensors = Object.keys(read<{ unet: Record<string, number[]> }>(network).unet)
    const theirs = tensors.map((name) => names.ldm(name))
    assert.equal(new Set(theirs).size, tensors.length)
    assert.deepEqual(
      theirs.map((name) => names.diffusers(name!)),
      tensors,
    )
  }
  const [theirs, ours] = ['input_blocks.4.1.transformer_blocks.0.attn1.to_q', 'down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q']
  assert.equal(sdxl.ldm(ours), theirs)
  assert.equal(sdxl.diffusers(theirs), ours)
})

test('a name that no module has is none', () => {
  assert.equal(sdxl.diffusers('input_blocks.1.1.proj_in.weight'), undefined)
  assert.equal(sdxl.diffusers('input_blocks.10.0.in_layers.0.weight'), undefined)
  assert.equal(sdxl.ldm('down_blocks.0.attentions.0.proj_in'), undefined)
  assert.equal(sdxl.ldm(''), undefined)
})
