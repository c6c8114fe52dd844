import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { adapterCount, attachAdapters, parameterCount } from '../../lib/adapters/adapter.js'
import { fileTensors } from '../../lib/adapters/files.js'
import { lora } from '../../lib/adapters/lora.js'
import { readHeader } from '../../lib/files/safetensors.js'
import { ConfigReader, unetConfig } from '../../lib/models/configs.js'
import { type Family, loraPrefixes } from '../../lib/models/model.js'
import { sd2 } from '../../lib/models/sd2.js'
import { sdxl } from '../../lib/models/sdxl.js'
import { native } from '../../lib/native.js'
import { optimizers } from '../../lib/train/optimizers.js'
import { elements, type Shapes, writeSparse } from '../fixtures/sparse.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { root } from './golden.js'

async function shapesOf(name: string): Promise<Shapes> {
  return (JSON.parse(await readFile(`${root}test/fixtures/golden-names/${name}.json`, 'utf8')) as { unet: Shapes }).unet
}

/** The LoRA of rank 1 that a family's UNet of real size gets. */
async function loraOf(t: TestContext, family: Family, shapes: Shapes, json: Record<string, unknown>, convRank?: number) {
  const path = join(await temporaryFolder(t), 'unet.safetensors')
  await writeSparse(path, shapes)
  const { tensors } = await readHeader(path)
  const files = [{ path, tensors: tensors.map(({ name, shape, offset }) => ({ name, dtype: 'F16' as const, shape, offset })) }]
  const networks = { unet: { architecture: 'unet' as const, config: unetConfig(new ConfigReader('config.json', json)), files } }
  const session = new (native().Session)({ device: 'cpu', threads: 1, precision: 'f32', networks })
  t.after(() => session.dispose())
  const adapters = attachAdapters(
    session,
    lora,
    [{ network: 'unet', group: 0 }],
    { targets: 'default', rank: 1, alpha: 1, convRank, convAlpha: convRank },
    optimizers.adamw.spec,
  )
  const written = await fileTensors('kohya', adapters, session.read('weights'), 'F16', loraPrefixes(family, networks))
  return { modules: adapterCount(adapters), parameters: parameterCount(adapters.parameters), written }
}

const sdxlJson = {
  ...{ block_out_channels: [320, 640, 1280], attention_head_dim: [5, 10, 20], cross_attention_dim: 2048 },
  down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
  up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
  ...{ transformer_layers_per_block: [1, 2, 10], use_linear_projection: true },
  ...{ addition_embed_type: 'text_time', addition_time_embed_dim: 256, projection_class_embeddings_input_dim: 2816 },
}

test("SDXL's LoRA with convolutions has the 788 modules of kohya, under SGM's names", async (t) => {
  const { modules, parameters, written } = await loraOf(t, sdxl, await shapesOf('sdxl'), sdxlJson, 2)
  assert.deepEqual([modules, parameters], [788, 2_659_840 + 2 * 355_840 + 58_560])
  const downs = new Map(written.flatMap(({ name, shape }) => (name.endsWith('.lora_down.weight') ? [[name.split('.')[0], shape]] : [])))
  for (const [name, shape] of Object.entries({
    input_blocks_1_0_in_layers_2: [2, 320, 3, 3],
    input_blocks_1_0_emb_layers_1: [1, 1280],
    input_blocks_4_0_out_layers_3: [2, 640, 3, 3],
    input_blocks_4_0_skip_connection: [1, 320, 1, 1],
    input_blocks_3_0_op: [2, 320, 3, 3],
    middle_block_2_in_layers_2: [2, 1280, 3, 3],
    output_blocks_2_2_conv: [2, 1280, 3, 3],
    output_blocks_5_2_conv: [2, 640, 3, 3],
  }))
    assert.deepEqual(downs.get(`lora_unet_${name}`), shape, name)
})

test("SDXL's LoRA has the 722 modules of kohya, under SGM's names", async (t) => {
  const { modules, parameters, written } = await loraOf(t, sdxl, await shapesOf('sdxl'), sdxlJson)
  assert.deepEqual([modules, parameters], [722, 2_659_840])
  const names = [...new Set(written.map(({ name }) => name.slice(0, name.indexOf('.'))))].sort()
  assert.ok(names.includes('lora_unet_input_blocks_4_1_proj_in') && names.includes('lora_unet_middle_block_1_proj_out'))
  assert.ok(names.includes('lora_unet_output_blocks_5_1_transformer_blocks_1_attn2_to_out_0'))
  // Of the 722 names that kohya's own module tree has (kohya-ss/sd-scripts:library/sdxl_original_unet.py, networks/lora.py).
  const hash = createHash('sha256').update(names.join('\n')).digest('hex')
  assert.equal(hash, '5d819b833e27947d429ba79ac3e24f388212474b229fb83dbc3444086264e018')
  assert.ok(written.every(({ name, shape }) => name.endsWith('.alpha') || shape.length === 2))
})

test("SD2's LoRA has the 192 modules of kohya, all of them matrices as in the model's files", async (t) => {
  const shapes: Shapes = {}
  for (const [name, shape] of Object.entries(await shapesOf('sd15'))) {
    if (/proj_(in|out)\.weight$/.test(name)) shapes[name] = shape.slice(0, 2)
    else shapes[name] = /attn2\.to_[kv]/.test(name) ? [shape[0]!, 1024] : shape
  }
  const total = Object.values(shapes).reduce((sum, shape) => sum + elements(shape), 0)
  assert.equal(total, 865_910_724)
  const json = { attention_head_dim: [5, 10, 20, 20], cross_attention_dim: 1024, use_linear_projection: true }
  const { modules, parameters, written } = await loraOf(t, sd2, shapes, json)
  assert.deepEqual([modules, parameters], [192, 432_128])
  const matrices = written.filter(({ shape }) => shape.length > 0)
  assert.ok(matrices.every(({ shape }) => shape.length === 2))
  assert.ok(matrices.some(({ name }) => name === 'lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight'))
})
