import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { ConfigReader, unetConfig } from '../../../lib/models/configs.js'
import { unetLayout } from '../../../lib/models/layouts.js'
import { unetNames } from '../../../lib/models/ldm-names.js'
import type { NetworkConfig } from '../../../lib/native.js'

const [cross, plain] = ['CrossAttnDownBlock2D', 'DownBlock2D']
const blocks: Record<string, string[]> = { sd15: [cross, cross, cross, plain], sdxl: [plain, cross, cross] }

/** The shapes of a real UNet under LDM's names (test/fixtures/golden-names, from diffusers' module trees). */
function shapesOf(name: string): Map<string, number[]> {
  const path = new URL(`../../../../test/fixtures/golden-names/${name}.json`, import.meta.url)
  const { unet } = JSON.parse(readFileSync(path, 'utf8')) as { unet: Record<string, number[]> }
  const names = unetNames({ layers_per_block: 2, down_block_types: blocks[name]! })
  return new Map(Object.entries(unet).map(([ours, shape]) => [names.ldm(ours)!, shape]))
}

const read = (shapes: Map<string, number[]>): NetworkConfig => unetConfig(new ConfigReader('model', unetLayout(shapes, 'model')!))
/** Leaves out transformer layers from `most` on, in blocks whose path matches. */
const shallower = (shapes: Map<string, number[]>, path: RegExp, most: number) =>
  new Map([...shapes].filter(([name]) => !path.test(name) || Number(/transformer_blocks\.(\d+)/.exec(name)?.[1] ?? 0) < most))

test("configs worked out from the shapes of SD 1.5's and SDXL's UNets are the published ones", () => {
  const sd15 = read(shapesOf('sd15'))
  assert.deepEqual(sd15.block_out_channels, [320, 640, 1280, 1280])
  assert.deepEqual(sd15.num_attention_heads, [8, 8, 8, 8])
  assert.deepEqual(sd15.transformer_layers_per_block, [1, 1, 1, 1])
  assert.equal(sd15.cross_attention_dim, 768)
  const sdxl = read(shapesOf('sdxl'))
  assert.deepEqual(sdxl.num_attention_heads, [5, 10, 20])
  assert.deepEqual(sdxl.down_block_types, blocks.sdxl)
  assert.deepEqual(sdxl.up_block_types, ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'])
  assert.deepEqual(sdxl.transformer_layers_per_block, [1, 2, 10])
  assert.equal(sdxl.projection_class_embeddings_input_dim, 2816)
  assert.equal(sdxl.cross_attention_dim, 2048)
})

test('SD2 has the shapes of SD1 but for the width of its text, and heads of 64 features', () => {
  const shapes = new Map([...shapesOf('sd15')].map(([name, shape]) => [name, shape.map((side) => (side === 768 ? 1024 : side))]))
  assert.deepEqual(read(shapes).num_attention_heads, [5, 10, 20, 20])
})

// Layers as ComfyUI lists them (comfy/model_detection.py, SSD_1B and Segmind_Vega).
test('distilled kin of SDXL have fewer layers, each transformer its own number, and less in the middle', () => {
  const noMiddle = new Map([...shapesOf('sdxl')].filter(([name]) => !/^middle_block\.[12]\./.test(name)))
  let ssd = shallower(noMiddle, /^input_blocks\.[78]\./, 4)
  ssd = shallower(ssd, /^output_blocks\.[01]\./, 4)
  ssd = shallower(ssd, /^output_blocks\.[45]\./, 1)
  const config = read(ssd)
  assert.equal(config.mid_block_type, 'UNetMidBlock2D')
  assert.deepEqual(config.transformer_layers_per_block, [1, 1, 2, 2, 4, 4])
  assert.deepEqual(config.reverse_transformer_layers_per_block, [4, 4, 10, 2, 1, 1, 1, 1, 1])
  const vega = shallower(shallower(noMiddle, /put_blocks\.[3458]\./, 2), /^(input_blocks\.[45]|output_blocks\.[345])\./, 1)
  const small = read(shallower(vega, /^(input_blocks\.7|output_blocks\.[012])\./, 2))
  assert.deepEqual(small.transformer_layers_per_block, [1, 1, 2])
})

test('a UNet whose levels differ in what they are made of is refused', () => {
  const shapes = [...shapesOf('sdxl')]
  const less = (path: RegExp) => new Map(shapes.filter(([name]) => !path.test(name)))
  for (const path of [/^input_blocks\.8\./, /^output_blocks\.8\./, /^input_blocks\.8\.1\./, /^(input_blocks\.1|input_blocks\.2)\.0/]) {
    assert.throws(() => unetLayout(less(path), 'model'), { code: 'MODEL_UNSUPPORTED' })
  }
  assert.equal(unetLayout(new Map([['x', [1]]]), 'model'), undefined)
  for (const shape of [[], [0], [1]]) {
    const odd = new Map(shapes.map(([name]) => [name, shape]))
    assert.throws(() => read(odd), { name: 'LorafuseError' })
  }
})
