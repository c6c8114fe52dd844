import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { unetNames, vaeNames } from '../../../lib/models/ldm-names.js'
import { readModel } from '../../../lib/models/read.js'
import { sd2 } from '../../../lib/models/sd2.js'
import { smallModel } from '../../fixtures/checkpoints.js'
import { type Shapes, writeSparse } from '../../fixtures/sparse.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const [cross, plain] = ['CrossAttnDownBlock2D', 'DownBlock2D']

/** The UNet of SD 1.5 under SGM's names, each side of its shapes put through `side`. */
function unetShapes(types: string[], side: (length: number) => number): Shapes {
  const path = new URL('../../../../test/fixtures/golden-names/sd15.json', import.meta.url)
  const { unet } = JSON.parse(readFileSync(path, 'utf8')) as { unet: Shapes }
  const names = unetNames({ layers_per_block: 2, down_block_types: types })
  const entries = Object.entries(unet).flatMap(([name, shape]): [string, number[]][] => {
    const sgm = names.ldm(name)
    if (sgm === undefined) return []
    const sides = shape.map(side)
    return [[`model.diffusion_model.${sgm}`, /\.proj_(in|out)\.weight$/.test(name) ? sides.slice(0, 2) : sides]]
  })
  return Object.fromEntries(entries)
}

/** OpenCLIP's text encoder, all layers. */
function textShapes(layers: number, width: number): Shapes {
  const text: Shapes = {
    'token_embedding.weight': [49_408, width],
    positional_embedding: [77, width],
    text_projection: [width, width],
    logit_scale: [],
  }
  const layer = (name: string, outputs: number, ...inputs: number[]) => {
    text[`${name}.weight`] = [outputs, ...inputs]
    text[`${name}.bias`] = [outputs]
  }
  layer('ln_final', width)
  for (let i = 0; i < layers; i++) {
    const path = `transformer.resblocks.${i}`
    for (const norm of ['ln_1', 'ln_2']) layer(`${path}.${norm}`, width)
    layer(`${path}.attn.out_proj`, width, width)
    layer(`${path}.mlp.c_fc`, 4 * width, width)
    layer(`${path}.mlp.c_proj`, width, 4 * width)
    text[`${path}.attn.in_proj_weight`] = [3 * width, width]
    text[`${path}.attn.in_proj_bias`] = [3 * width]
  }
  return Object.fromEntries(Object.entries(text).map(([name, shape]) => [`conditioner.embedders.0.model.${name}`, shape]))
}

function vaeShapes(): Shapes {
  const { config, tensors } = smallModel('sd2').vae!
  const names = vaeNames(config as unknown as Parameters<typeof vaeNames>[0])
  return Object.fromEntries(tensors.map(({ name, shape }) => [`first_stage_model.${names.ldm(name)}`, shape]))
}

test("SD2 in SGM's layout, as SD Turbo has it, is SD2", async (t) => {
  const path = join(await temporaryFolder(t), 'sd_turbo.safetensors')
  const unet = unetShapes([cross, cross, cross, plain], (length) => (length === 768 ? 1024 : length))
  await writeSparse(path, { ...unet, ...vaeShapes(), ...textShapes(24, 1024) })
  const { family, networks } = await readModel(path)
  assert.equal(family, sd2)
  const { config, files } = networks.text_encoder!
  assert.deepEqual([config.hidden_size, config.num_hidden_layers, config.hidden_act], [1024, 23, 'gelu'])
  const names = files[0]!.tensors.map(({ name }) => name)
  assert.ok(names.includes('text_model.encoder.layers.22.self_attn.v_proj.bias'))
  assert.ok(!names.some((name) => name.includes('layers.23.')))
})

// Stability-AI/generative-models:configs/inference/sd_xl_refiner.yaml
test('the refiner of SDXL, whose text encoder lies in the same place, is refused by its name', async (t) => {
  const path = join(await temporaryFolder(t), 'sd_xl_refiner_1.0.safetensors')
  const first = unetShapes([plain, cross, cross, plain], (length) => (length === 768 ? 1280 : length >= 320 ? length * 1.2 : length))
  const unet: Shapes = {}
  for (const [name, shape] of Object.entries(first))
    for (let i = 0; i < 4; i++) unet[name.replace('transformer_blocks.0', `transformer_blocks.${i}`)] = shape
  for (const [name, inputs] of [['0', 2560] as const, ['2', 1536] as const]) {
    unet[`model.diffusion_model.label_emb.0.${name}.weight`] = [1536, inputs]
    unet[`model.diffusion_model.label_emb.0.${name}.bias`] = [1536]
  }
  await writeSparse(path, { ...unet, ...vaeShapes(), ...textShapes(32, 1280) })
  await assert.rejects(readModel(path), { code: 'MODEL_UNSUPPORTED', message: /received the refiner of SDXL, which is not supported/ })
})
