import assert from 'node:assert/strict'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { readModel } from '../../../lib/models/read.js'
import { sd1 } from '../../../lib/models/sd1.js'
import { sd2 } from '../../../lib/models/sd2.js'
import { sdxl } from '../../../lib/models/sdxl.js'
import { changeConfig as change, copyModel, copySdxl } from '../../fixtures/models.js'

const unet = 'unet/config.json'
const scheduler = 'scheduler/scheduler_config.json'

test('a model is of SD1, SD2 or SDXL by its UNet, and the start says so', async (t) => {
  const folder = await copyModel(t)
  const first = await readModel(folder)
  assert.equal(first.family, sd1)
  assert.equal(first.foundBy, `SD 1.x, ε-prediction, found by ${scheduler}`)
  assert.deepEqual([first.pooledDim, first.timeIds, first.mostClipSkip], [0, false, 4])

  await change(folder, unet, { use_linear_projection: true, upcast_attention: true, attention_head_dim: [4, 8, 16] })
  await change(folder, 'text_encoder/config.json', { hidden_act: 'gelu' })
  await change(folder, scheduler, { prediction_type: 'v_prediction' })
  const second = await readModel(folder)
  assert.equal(second.family, sd2)
  assert.equal(second.foundBy, `SD 2.x, v-prediction, found by ${scheduler}`)
  assert.deepEqual(second.networks.unet!.config.num_attention_heads, [4, 8, 16])

  const large = await readModel(await copySdxl(t))
  assert.equal(large.family, sdxl)
  assert.equal(large.foundBy, `SDXL, ε-prediction, found by ${scheduler}`)
  assert.deepEqual([large.contextDim, large.pooledDim, large.timeIds, large.mostClipSkip], [192, 48, true, 2])
  assert.deepEqual(large.networks.unet!.config.transformer_layers_per_block, [1, 2, 3])
  assert.equal(large.networks.text_encoder_2!.config.projection_dim, 48)
  assert.deepEqual(Object.keys(large.tokenizers), ['text_encoder', 'text_encoder_2'])
})

test('SD2 and the second tokenizer of SDXL pad with id 0 unless their files say otherwise', async (t) => {
  const folder = await copySdxl(t)
  const { text_encoder, text_encoder_2 } = (await readModel(folder)).tokenizers
  assert.equal(text_encoder!.padId, text_encoder!.eosId)
  assert.equal(text_encoder_2!.padId, 0)
  await writeFile(join(folder, 'tokenizer_2/special_tokens_map.json'), '{"pad_token":"<|endoftext|>"}')
  assert.equal((await readModel(folder)).tokenizers.text_encoder_2!.padId, text_encoder_2!.eosId)
})

test('what the options say goes before what the model says', async (t) => {
  const folder = await copyModel(t)
  const chosen = await readModel(folder, { predictionType: 'v_prediction', zeroTerminalSnr: true })
  assert.equal(chosen.foundBy, 'SD 1.x, v-prediction with zero terminal SNR, as asked for')
  assert.equal(chosen.scheduler.predictionType, 'v_prediction')
  await change(folder, scheduler, { prediction_type: 'v_prediction', rescale_betas_zero_snr: true })
  assert.equal((await readModel(folder)).foundBy, `SD 1.x, v-prediction with zero terminal SNR, found by ${scheduler}`)
  const noise = { code: 'MODEL_UNSUPPORTED', message: /Expected v_prediction with zero terminal SNR .* received epsilon/ }
  await assert.rejects(readModel(folder, { predictionType: 'epsilon' }), noise)
  await readModel(folder, { predictionType: 'epsilon', zeroTerminalSnr: false })
})

test('models with irregular blocks: layers of each transformer, one resnet or none in the middle', async (t) => {
  const folder = await copySdxl(t)
  const layers = { transformer_layers_per_block: [1, [2], [3]], reverse_transformer_layers_per_block: [[4, 2], [1, 5], 1] }
  await change(folder, unet, { ...layers, mid_block_type: 'UNetMidBlock2D' })
  const { config } = (await readModel(folder)).networks.unet!
  assert.deepEqual(config.transformer_layers_per_block, [1, 2, 3])
  assert.deepEqual(config.reverse_transformer_layers_per_block, [4, 2, 1, 5, 1, 1])
  assert.equal(config.mid_block_type, 'UNetMidBlock2D')
  await change(folder, unet, { mid_block_type: null })
  assert.equal((await readModel(folder)).networks.unet!.config.mid_block_type, 'None')
  for (const [key, value] of Object.entries({
    transformer_layers_per_block: [1, [2, 2], 3],
    reverse_transformer_layers_per_block: [[4]],
  })) {
    const other = await copySdxl(t)
    await change(other, unet, { ...layers, [key]: value })
    await assert.rejects(readModel(other), { code: 'MODEL_INVALID', message: new RegExp(`for ${key} in .*unet/config.json`) })
  }
})

test('other models are refused by their names', async (t) => {
  const cases: [string, Record<string, unknown>][] = [
    ['an inpainting model', { in_channels: 9 }],
    ['InstructPix2Pix', { in_channels: 8 }],
    ['an upscaler', { in_channels: 7 }],
    ['Stable Diffusion 2 with depth', { in_channels: 5 }],
    ['Stable Diffusion 2 unCLIP', { class_embed_type: 'projection' }],
    ['Kandinsky', { encoder_hid_dim_type: 'image_proj' }],
    ['the refiner of SDXL', { addition_embed_type: 'text_time', cross_attention_dim: 1280 }],
  ]
  for (const [name, changes] of cases) {
    const folder = await copyModel(t)
    await change(folder, unet, changes)
    await assert.rejects(readModel(folder), { code: 'MODEL_UNSUPPORTED', message: new RegExp(`received ${name}, which is not supported`) })
  }
  const folder = await copyModel(t)
  const pipelines = {
    FluxPipeline: 'FLUX',
    StableDiffusion3Pipeline: 'Stable Diffusion 3',
    PixArtSigmaPipeline: 'PixArt',
    KandinskyV22Pipeline: 'Kandinsky',
    StableCascadeCombinedPipeline: 'Stable Cascade',
    KolorsPipeline: 'Kolors',
  }
  for (const [className, name] of Object.entries(pipelines)) {
    await writeFile(join(folder, 'model_index.json'), JSON.stringify({ _class_name: className }))
    await assert.rejects(readModel(folder), { code: 'MODEL_UNSUPPORTED', message: new RegExp(`received ${name}, which is not supported`) })
  }
  await rm(join(folder, 'unet'), { recursive: true })
  await mkdir(join(folder, 'transformer'))
  await writeFile(join(folder, 'model_index.json'), '{"_class_name":"SomethingNewPipeline"}')
  await assert.rejects(readModel(folder), { code: 'MODEL_UNSUPPORTED', message: /received "SomethingNewPipeline", which is not supported/ })
  await rm(join(folder, 'model_index.json'))
  await assert.rejects(readModel(folder), { code: 'MODEL_UNSUPPORTED', message: /received parts of another model/ })
})

test('a part of SDXL that is missing or does not fit is named', async (t) => {
  const folder = await copySdxl(t)
  for (const part of ['text_encoder_2', 'tokenizer_2']) {
    await rename(join(folder, part), `${folder}-aside`)
    await assert.rejects(readModel(folder), { code: 'MODEL_INCOMPLETE', message: new RegExp(`second text encoder at .*${part}`) })
    await rename(`${folder}-aside`, join(folder, part))
  }
  await change(folder, 'text_encoder_2/config.json', { projection_dim: 47 })
  await assert.rejects(readModel(folder), { code: 'MODEL_UNSUPPORTED', message: /projection_dim, 47, .* received 48/ })
})
