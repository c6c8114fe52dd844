import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { readAdapters } from '../../../lib/adapters/files.js'
import { lora } from '../../../lib/adapters/lora.js'
import { ConfigReader, unetConfig } from '../../../lib/models/configs.js'
import type { Family } from '../../../lib/models/model.js'
import { loraPrefixes } from '../../../lib/models/model.js'
import { sd1 } from '../../../lib/models/sd1.js'
import { sdxl } from '../../../lib/models/sdxl.js'
import type { Layer } from '../../../lib/native.js'
import { convolution, linear } from '../../fixtures/fake-session.js'
import { writeRaw } from '../../fixtures/safetensors.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

/** SDXL's blocks; the files' names follow from them. */
const config = unetConfig(
  new ConfigReader('config.json', {
    block_out_channels: [32, 64, 128],
    attention_head_dim: [1, 2, 4],
    down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
    up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
    transformer_layers_per_block: [1, 2, 10],
  }),
)

const unet = {
  query: 'down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q',
  out: 'down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0',
  forward: 'up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj',
  projection: 'mid_block.attentions.0.proj_in',
  conv: 'down_blocks.2.resnets.1.conv2',
  shortcut: 'up_blocks.1.resnets.0.conv_shortcut',
  time: 'up_blocks.2.resnets.2.time_emb_proj',
  down: 'down_blocks.0.downsamplers.0.conv',
  up: 'up_blocks.1.upsamplers.0.conv',
}
/** As kohya names them. */
const sgm: Record<keyof typeof unet, string> = {
  query: 'input_blocks_4_1_transformer_blocks_1_attn1_to_q',
  out: 'input_blocks_4_1_transformer_blocks_1_attn2_to_out_0',
  forward: 'output_blocks_2_1_transformer_blocks_9_ff_net_0_proj',
  projection: 'middle_block_1_proj_in',
  conv: 'input_blocks_8_0_out_layers_3',
  shortcut: 'output_blocks_3_0_skip_connection',
  time: 'output_blocks_8_0_emb_layers_1',
  down: 'input_blocks_3_0_op',
  up: 'output_blocks_5_2_conv',
}
const keys = Object.keys(unet) as (keyof typeof unet)[]
const text = [
  'text_model.encoder.layers.0.self_attn.q_proj',
  'text_model.encoder.layers.0.self_attn.out_proj',
  'text_model.encoder.layers.0.mlp.fc1',
]

const kernels: Partial<Record<keyof typeof unet, number>> = { conv: 3, down: 3, up: 3 }
const unetLayers = keys.map((key) => (kernels[key] ? convolution(unet[key], 4, 6, kernels[key]) : linear(unet[key], 4, 6)))
const layers: Record<string, Layer[]> = {
  unet: unetLayers,
  text_encoder: text.map((path) => linear(path, 4, 6)),
  text_encoder_2: text.map((path) => linear(path, 4, 6)),
}

/** Writes two matrices of each of these names and reads them; `roles` says what follows the names. */
async function read(t: TestContext, names: string[], [down, up]: [down: string, up: string], family: Family = sdxl, alpha = false) {
  const file = join(await temporaryFolder(t), 'x.safetensors')
  const tensors = names.flatMap((name) => {
    const kernel = /conv2|_op$|\.op$|downsamplers|upsamplers|out_layers|_2_conv$|\.2\.conv$/.test(name) ? [3, 3] : []
    const tensor = (suffix: string, shape: number[]) => {
      return {
        name: name + suffix,
        dtype: 'F32',
        shape,
        data: new Float32Array(shape.reduce((product, length) => product * length, 1)).fill(0.5),
      }
    }
    return [
      tensor(down, [2, 4, ...kernel]),
      tensor(up, [6, 2, ...kernel.map(() => 1)]),
      ...(alpha ? [{ name: `${name}.alpha`, dtype: 'F32', shape: [], data: Float32Array.of(1) }] : []),
    ]
  })
  await writeRaw(file, tensors)
  const only = family === sd1 ? { unet: unetLayers, text_encoder: layers.text_encoder! } : layers
  const target = {
    layers: only,
    prefixes: loraPrefixes(family, { unet: { config } }),
    baseModelVersion: 'sdxl_base_v1-0',
  }
  const found = await readAdapters(lora, file, target)
  for (const parts of found.values()) for (const { scale } of parts.values()) assert.equal(scale, alpha ? 0.5 : 1)
  return Object.fromEntries([...found].map(([network, parts]) => [network, [...parts.keys()]]))
}

const everything = { unet: Object.values(unet), text_encoder: text, text_encoder_2: text }
const kohya: [string, string] = ['.lora_down.weight', '.lora_up.weight']
const peft: [string, string] = ['.lora_A.weight', '.lora_B.weight']
const under = (prefix: string, paths: string[]) => paths.map((path) => `${prefix}_${path.replaceAll('.', '_')}`)

test("kohya's names of SDXL are read, SGM's and diffusers'", async (t) => {
  for (const paths of [Object.values(sgm), Object.values(unet)]) {
    const names = [...under('lora_unet', paths), ...under('lora_te1', text), ...under('lora_te2', text)]
    assert.deepEqual(await read(t, names, kohya, sdxl, true), everything)
  }
})

test("kohya's names of SD1 are read", async (t) => {
  for (const prefix of ['lora_te', 'lora_te1']) {
    const names = [...under('lora_unet', Object.values(unet)), ...under(prefix, text)]
    assert.deepEqual(await read(t, names, kohya, sd1, true), { unet: Object.values(unet), text_encoder: text })
  }
})

test("OneTrainer's names are read, old and new", async (t) => {
  const points = Object.values(sgm).map((name) => `unet.${name.replace(/_(?=\d)|(?<=\d)_/g, '.')}`)
  // `transformer_blocks`, `to_q` and the like keep their underscores.
  const omi = points.map((name) =>
    name
      .replace(/attn(\d)_to/, 'attn$1.to')
      .replace('ff_net', 'ff.net')
      .replace('attn1_', 'attn1.'),
  )
  const names = [...omi, ...text.map((path) => `clip_l.${path}`), ...text.map((path) => `clip_g.${path}`)]
  assert.deepEqual(await read(t, names, kohya, sdxl, true), everything)
  const dotted = ['lora_unet', 'lora_te1', 'lora_te2'].flatMap((prefix, i) =>
    Object.values(everything)[i]!.map((path) => `${prefix}.${path}`),
  )
  assert.deepEqual(await read(t, dotted, kohya, sdxl, true), everything)
})

test("diffusers' and PEFT's names are read, of transformers 4 and 5", async (t) => {
  for (const spell of [(path: string) => path, (path: string) => path.replace('text_model.', '')]) {
    const names = Object.entries(everything).flatMap(([network, paths]) => paths.map((path) => `${network}.${spell(path)}`))
    assert.deepEqual(await read(t, names, peft), everything)
    assert.deepEqual(await read(t, names, ['.lora.down.weight', '.lora.up.weight']), everything)
    const alone = text.map((path) => `base_model.model.${spell(path)}`)
    assert.deepEqual(await read(t, alone, peft, sd1), { text_encoder: text })
  }
})

test("diffusers' first names are read", async (t) => {
  const [query, out] = [unet.query, unet.out].map((path) => `unet.${path.replace(/to_(q|out)(\.0)?$/, 'processor.to_$1')}`)
  assert.deepEqual(await read(t, [query!, out!], ['_lora.down.weight', '_lora.up.weight']), { unet: [unet.query, unet.out] })
  const linear = text.map((path) => `text_encoder_2.${path}`)
  assert.deepEqual(await read(t, linear, ['.lora_linear_layer.down.weight', '.lora_linear_layer.up.weight']), { text_encoder_2: text })
  const first = text.slice(0, 2).map((path) => `text_encoder.${path.replace(/(q|out)_proj$/, 'to_$1')}`)
  assert.deepEqual(await read(t, first, ['_lora.down.weight', '_lora.up.weight']), { text_encoder: text.slice(0, 2) })
})

test('layers that have no adapter are named', async (t) => {
  const cases: Record<string, RegExp> = {
    lora_unet_conv_in: /what comes before or after the blocks of the UNet \("lora_unet_conv_in\.lora_down/,
    lora_unet_time_embed_0: /before or after the blocks/,
    'unet.add_embedding.linear_1': /before or after the blocks/,
    lora_te2_text_projection: /embeddings or the projection of the text/,
  }
  for (const [name, message] of Object.entries(cases)) {
    await assert.rejects(read(t, [name, `lora_unet_${sgm.query}`], kohya), { code: 'LORA_UNSUPPORTED', message })
  }
})
