import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { ModelEvent } from '../../../lib/events.js'
import { ConfigReader, unetConfig } from '../../../lib/models/configs.js'
import { readModel } from '../../../lib/models/read.js'
import { weightNames } from '../../../lib/models/weight-names.js'
import type { Network } from '../../../lib/native.js'
import { leftovers, singleFileTensors, smallModel, writeFolder } from '../../fixtures/checkpoints.js'
import { tiny } from '../../fixtures/lora.js'
import { type RawTensor, writeRaw } from '../../fixtures/safetensors.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const extra = (name: string): RawTensor => ({ name, dtype: 'F16', shape: [2], data: new Uint16Array(2) })

/** Names of shortcuts are told for every resnet, and of projections for every text encoder. */
const certain = (names: Iterable<string>) => [...names].filter((name) => !/conv_shortcut|text_projection/.test(name)).sort()

const inFiles = ({ files }: Network) => files.flatMap(({ tensors }) => tensors.map(({ name }) => name))

test("the names of the real UNets' weights follow from their configs", () => {
  const [cross, plain] = ['CrossAttnDownBlock2D', 'DownBlock2D']
  const [crossUp, plainUp] = ['CrossAttnUpBlock2D', 'UpBlock2D']
  const configs = {
    sd15: {},
    sdxl: {
      ...{ block_out_channels: [320, 640, 1280], down_block_types: [plain, cross, cross], up_block_types: [crossUp, crossUp, plainUp] },
      ...{ addition_embed_type: 'text_time', transformer_layers_per_block: [1, 2, 10] },
    },
  }
  for (const [list, json] of Object.entries(configs)) {
    const path = new URL(`../../../../test/fixtures/golden-names/${list}.json`, import.meta.url)
    const { unet } = JSON.parse(readFileSync(path, 'utf8')) as { unet: Record<string, unknown> }
    const names = weightNames({ architecture: 'unet', config: unetConfig(new ConfigReader(list, json)) })
    assert.deepEqual(certain(names), certain(Object.keys(unet)))
    assert.ok(Object.keys(unet).every((name) => names.has(name)))
  }
})

test('every weight of whole models has its name, and no other name is told', async (t) => {
  const folder = await temporaryFolder(t)
  await writeFolder(folder, smallModel('sdxl'))
  for (const path of [tiny, folder]) {
    for (const network of Object.values((await readModel(path)).networks)) {
      const names = weightNames(network)
      assert.deepEqual(certain(names), certain(inFiles(network)))
      assert.ok(inFiles(network).every((name) => names.has(name)))
    }
  }
})

test('irregular blocks and a smaller middle have the names of what is there', () => {
  const config = unetConfig(
    new ConfigReader('vega', {
      ...{ block_out_channels: [32, 64], layers_per_block: 1, transformer_layers_per_block: [1, 2], mid_block_type: 'UNetMidBlock2D' },
      ...{ down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D'], up_block_types: ['CrossAttnUpBlock2D', 'UpBlock2D'] },
      reverse_transformer_layers_per_block: [[3, 1], 1],
    }),
  )
  const names = [...weightNames({ architecture: 'unet', config })]
  const transformers = names.filter((name) => name.endsWith('attn1.to_q.weight')).map((name) => name.replace('.attn1.to_q.weight', ''))
  assert.deepEqual(transformers, [
    'up_blocks.0.attentions.0.transformer_blocks.0',
    'up_blocks.0.attentions.0.transformer_blocks.1',
    'up_blocks.0.attentions.0.transformer_blocks.2',
    'up_blocks.0.attentions.1.transformer_blocks.0',
    'down_blocks.1.attentions.0.transformer_blocks.0',
    'down_blocks.1.attentions.0.transformer_blocks.1',
  ])
  assert.ok(names.includes('mid_block.resnets.0.conv1.weight') && !names.includes('mid_block.resnets.1.conv1.weight'))
  const without = weightNames({ architecture: 'unet', config: { ...config, mid_block_type: 'None' } })
  assert.ok(![...without].some((name) => name.startsWith('mid_block')))
})

/** Reads a small SD2 model with more tensors, from a folder and from one file, and collects the warnings. */
async function read(t: TestContext, folderNames: Record<string, string[]>, fileNames: string[]) {
  const folder = await temporaryFolder(t)
  const model = { ...smallModel('sd2') }
  const file = join(folder, 'model.safetensors')
  await writeRaw(file, [...singleFileTensors('sd2', model), ...leftovers(), ...fileNames.map(extra)])
  for (const [network, names] of Object.entries(folderNames))
    model[network] = { ...model[network]!, tensors: [...model[network]!.tensors, ...names.map(extra)] }
  await writeFolder(join(folder, 'folder'), model)
  return [join(folder, 'folder'), file].map((path) => {
    const warnings: string[] = []
    const onEvent = (event: ModelEvent) => {
      if (event.type === 'warning') warnings.push(`${event.code} ${event.message}`)
    }
    return { found: () => readModel(path, {}, { onEvent }), warnings }
  })
}

test('weights of a UNet that nothing reads are refused, by the first and their number', async (t) => {
  const cases: [ours: string, ldm: string][] = [
    ['down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.bias', 'input_blocks.1.1.transformer_blocks.0.attn1.to_q.bias'],
    ['mid_block.attentions.0.transformer_blocks.0.attn1.norm_q.weight', 'middle_block.1.transformer_blocks.0.attn1.norm_q.weight'],
    ['position_net.linears.0.weight', 'position_net.linears.0.weight'],
  ]
  for (const [ours, ldm] of cases) {
    const more = 'position_net.null_positive_feature'
    for (const { found } of await read(
      t,
      { unet: [ours, more] },
      [ldm, more].map((name) => `model.diffusion_model.${name}`),
    )) {
      await assert.rejects(found(), (error: Error & { code: string }) => {
        assert.equal(error.code, 'MODEL_UNSUPPORTED')
        assert.ok(error.message.includes(`received "${ours}" and 1 more; use the model without`), error.message)
        return true
      })
    }
  }
})

test('weights of a VAE and of a text encoder that nothing reads are told by a warning', async (t) => {
  const names = { vae: ['encoder.mid_block.attentions.0.to_q.gain'], text_encoder: ['text_model.adapter.weight'] }
  const inFile = ['first_stage_model.encoder.mid.attn_1.q.gain', 'cond_stage_model.model.text_model.adapter.weight']
  for (const { found, warnings } of await read(t, names, inFile)) {
    await found()
    assert.equal(warnings.length, 2, warnings.join('\n'))
    for (const [name] of Object.values(names))
      assert.ok(warnings.some((warning) => warning.startsWith('WEIGHTS_UNREAD ') && warning.includes(`received "${name}", which`)))
  }
})

test('buffers, losses, copies and the half of CLIP for pictures are left out without a word', async (t) => {
  const names = { vae: ['loss.logvar'], text_encoder: ['text_model.embeddings.position_ids', 'logit_scale', 'text_projection.weight'] }
  const inFile = [
    'first_stage_model.loss.perceptual_loss.lin0.model.1.weight',
    'cond_stage_model.model.text_projection',
    'cond_stage_model.model.attn_mask',
    'cond_stage_model.model.visual.transformer.resblocks.0.attn.in_proj_weight',
    'cond_stage_model.model.transformer.resblocks.23.mlp.c_fc.bias',
    'model_ema.decay',
    'optimizer.state.0',
  ]
  for (const { found, warnings } of await read(t, names, inFile)) {
    await found()
    assert.deepEqual(warnings, [])
  }
})
