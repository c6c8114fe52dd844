import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { readAdapters } from '../../../lib/adapters/files.js'
import { lora } from '../../../lib/adapters/lora.js'
import { loraPrefixes } from '../../../lib/models/model.js'
import { sd1 } from '../../../lib/models/sd1.js'
import { linear } from '../../fixtures/fake-session.js'
import { writeRaw } from '../../fixtures/safetensors.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const key = 'lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k'
const path = 'mid_block.attentions.0.transformer_blocks.0.attn2.to_k'
const layers = [linear(path, 768, 4)]
const target = { layers: { unet: layers }, prefixes: loraPrefixes(sd1, {}), baseModelVersion: 'sd_v1' }

function rawTensors(tensors: Record<string, number[]>) {
  return Object.entries(tensors).map(([name, shape]) => {
    return { name, dtype: 'F32', shape, data: new Float32Array(shape.reduce((product, length) => product * length, 1)) }
  })
}

/** The refusal of a file with tensors of these names, and shapes where they matter. */
async function refusalOf(folder: string, tensors: Record<string, number[]>, metadata: Record<string, string> = {}): Promise<string> {
  const file = join(folder, 'x.safetensors')
  await writeRaw(file, rawTensors(tensors), metadata)
  const error = await readAdapters(lora, file, target).catch((cause: unknown) => cause as { code: string; message: string })
  assert.ok('code' in error, 'it was read')
  assert.ok(error.message.length < 500, error.message)
  return `${error.code} ${error.message.replace(file, 'FILE')}`
}

const plain = { [`${key}.lora_down.weight`]: [2, 768], [`${key}.lora_up.weight`]: [4, 2] }
const conv = 'lora_unet_down_blocks_0_resnets_0_conv1'

/** By names that kohya, LyCORIS, PEFT, diffusers and others write. */
const kinds: [what: string, tensors: Record<string, number[]>, says: RegExp][] = [
  ['LoHa', { [`${key}.hada_w1_a`]: [4, 2], [`${key}.alpha`]: [] }, /received a LoHa \(".*hada_w1_a"\); merge it/],
  ['LoKr', { [`${key}.lokr_w1`]: [2, 2], [`${key}.lokr_w2_a`]: [2, 2] }, /received a LoKr/],
  ['LoKr of PEFT', { [`base_model.model.${path}.lokr_w2_b`]: [2, 2] }, /received a LoKr/],
  ['DoRA of LyCORIS', { ...plain, [`${key}.dora_scale`]: [4, 1] }, /received a DoRA/],
  ['DoRA of PEFT', { [`unet.${path}.lora_A.weight`]: [2, 768], [`unet.${path}.lora_magnitude_vector`]: [4] }, /received a DoRA/],
  ['OFT', { [`${key}.oft_blocks`]: [2, 2, 2] }, /received an OFT or BOFT/],
  ['OFT of kohya', { [`${key.replace('lora', 'oft')}.oft_diag`]: [2] }, /received an OFT or BOFT/],
  ['BOFT of PEFT', { [`base_model.model.${path}.boft_R`]: [2, 2, 2, 2] }, /received an OFT or BOFT/],
  ['full weights', { [`${key}.diff`]: [4, 768] }, /received differences of whole weights/],
  ['norms', { ...plain, 'lora_unet_mid_block_attentions_0_norm.w_norm': [4] }, /received differences of whole weights/],
  ['GLoRA', { [`${key}.a1.weight`]: [2, 2] }, /received a GLoRA/],
  ['LoCon of Tucker', { [`${conv}.lora_mid.weight`]: [2, 2, 3, 3] }, /received a LoCon with a core tensor/],
  ['biases of PEFT', { [`unet.${path}.lora_A.weight`]: [2, 768], [`unet.${path}.lora_B.bias`]: [4] }, /received a LoRA with biases/],
  ['embeddings of OneTrainer', { ...plain, 'bundle_emb.cat.emb_params': [2] }, /received a LoRA with OneTrainer's embeddings/],
  ['first convolution', { ...plain, 'lora_unet_conv_in.alpha': [] }, /also changes what comes before or after the blocks of the UNet/],
  ['text projection', { ...plain, 'lora_te_text_projection.alpha': [] }, /also changes embeddings or the projection of the text/],
  ['embedding', { emb_params: [4, 768] }, /received an embedding of textual inversion/],
  ['embedding of diffusers', { '<cat-toy>': [768] }, /received an embedding/],
  ['embedding of SDXL', { clip_g: [1, 1280], clip_l: [1, 768] }, /received an embedding/],
  ['checkpoint', { 'model.diffusion_model.input_blocks.0.0.weight': [1], 'first_stage_model.x': [1] }, /received a whole checkpoint/],
  ["diffusers' UNet", { 'conv_in.weight': [4], 'mid_block.attentions.0.proj_in.weight': [4] }, /received a model's own weights/],
  ['ControlNet', { 'control_model.input_blocks.0.0.weight': [1] }, /received a ControlNet/],
  ["diffusers' ControlNet", { 'controlnet_cond_embedding.conv_in.weight': [1], 'conv_in.weight': [1] }, /received a ControlNet/],
  ['IP-Adapter', { 'image_proj.norm.weight': [1], 'ip_adapter.1.to_k_ip.weight': [1] }, /received an IP-Adapter/],
  ['LLLite', { 'lllite_unet_input_blocks_4_1.cond_emb': [1] }, /received a ControlNet-LLLite/],
  ['something else', { weight: [1] }, /received "weight"/],
]
for (const [what, tensors, says] of kinds) {
  test(`a file of the kind ${what} is named`, async (t) => {
    assert.match(await refusalOf(await temporaryFolder(t), tensors), says)
  })
}

const families: [what: string, tensors: Record<string, number[]>, metadata: Record<string, string>, family: string][] = [
  ['SDXL of kohya', { 'lora_unet_input_blocks_4_1_proj_in.lora_down.weight': [1, 1] }, {}, 'Stable Diffusion XL (SDXL)'],
  ['SDXL with text', { ...plain, 'lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha': [] }, {}, 'Stable Diffusion XL (SDXL)'],
  [
    'SDXL of diffusers',
    { [`unet.${path}.lora_A.weight`]: [1, 2048], [`unet.${path}.lora_B.weight`]: [4, 1] },
    {},
    'Stable Diffusion XL (SDXL)',
  ],
  ['SDXL by its metadata', { 'lora_unet_x.alpha': [] }, { ss_base_model_version: 'sdxl_base_v1-0' }, 'Stable Diffusion XL (SDXL)'],
  ['SD 2 by its metadata', { 'lora_unet_x.alpha': [] }, { ss_base_model_version: 'sd_v2_v' }, 'Stable Diffusion 2.x'],
  ['SD 2 of older scripts', { 'lora_unet_x.alpha': [] }, { ss_v2: 'True' }, 'Stable Diffusion 2.x'],
  ['SD 2 by its width', { [`${key}.lora_down.weight`]: [1, 1024], [`${key}.lora_up.weight`]: [4, 1] }, {}, 'Stable Diffusion 2.x'],
  ['SD 3', { 'lora_unet_joint_blocks_0_x_block_attn_qkv.alpha': [] }, {}, 'Stable Diffusion 3'],
  ['Flux', { 'lora_unet_double_blocks_0_img_attn_qkv.alpha': [] }, {}, 'Flux'],
  ['Flux of diffusers', { 'transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight': [1, 1] }, {}, 'Flux'],
  ['a family unheard of', { 'lora_unet_x.alpha': [] }, { 'modelspec.architecture': 'zeta-9/lora' }, '"zeta-9/lora"'],
]
for (const [what, tensors, metadata, family] of families) {
  test(`a LoRA for ${what} is refused by its family's name`, async (t) => {
    const told = await refusalOf(await temporaryFolder(t), tensors, metadata)
    assert.ok(told.startsWith('LORA_MISMATCH ') && told.includes(family), told)
  })
}

/** Reads a LoRA of a text encoder, and for `wide` of cross attention, that fits the model. */
async function readFitting(t: TestContext, model: string, prefix: string, metadata: Record<string, string>, wide = false) {
  const file = join(await temporaryFolder(t), 'x.safetensors')
  const layer = 'text_model.encoder.layers.0.mlp.fc1'
  const name = `${prefix}_${layer.replaceAll('.', '_')}`
  const tensors = { [`${name}.lora_down.weight`]: [2, 6], [`${name}.lora_up.weight`]: [4, 2], ...(wide ? plain : {}) }
  await writeRaw(file, rawTensors(tensors), metadata)
  const warnings: string[] = []
  const families = { unet: layers, text_encoder: [linear(layer, 6, 4)] }
  const found = await readAdapters(lora, file, { ...target, layers: families, baseModelVersion: model }, (warning) =>
    warnings.push(`${warning.code} ${warning.message.replace(file, 'FILE')}`),
  ).catch(({ code, message }: { code: string; message: string }) => `${code} ${message.replace(file, 'FILE')}`)
  return typeof found === 'string' ? found : warnings.join()
}

test('a LoRA of a text encoder that fits but was made for another family is refused by its metadata', async (t) => {
  const refused = 'LORA_MISMATCH Expected a LoRA for Stable Diffusion XL (SDXL) at FILE but received one for Stable Diffusion 1.x'
  const metadatas: Record<string, string>[] = [
    { ss_base_model_version: 'sd_v1' },
    { ss_v2: 'False' },
    { 'modelspec.architecture': 'stable-diffusion-v1/lora' },
  ]
  for (const metadata of metadatas)
    assert.equal(await readFitting(t, 'sdxl_base_v1-0', 'lora_te1', metadata), `${refused}; use one for Stable Diffusion XL (SDXL)`)
  assert.match(await readFitting(t, 'sd_v1', 'lora_te', { ss_base_model_version: 'sdxl_base_v1-0' }), /^LORA_MISMATCH .* for .*SDXL/)
  for (const version of ['sd_v1', 'sd_v1_v', 'my own'])
    assert.equal(await readFitting(t, 'sd_v1', 'lora_te', { ss_base_model_version: version }), '')
})

test('a LoRA of a text encoder that is only named as for another family is applied, and told', async (t) => {
  const told = (own: string, other: string) =>
    `LORA_FAMILY_UNCERTAIN Expected a LoRA for ${own} at FILE but its tensors are named as for ${other}; they fit and are applied`
  const [sd, xl] = ['Stable Diffusion 1.x', 'Stable Diffusion XL (SDXL)']
  assert.equal(await readFitting(t, 'sdxl_base_v1-0', 'lora_te', {}), told(xl, `${sd} or 2.x`))
  assert.equal(await readFitting(t, 'sd_v1', 'lora_te1', {}), told(sd, xl))
  assert.equal(await readFitting(t, 'sd_v1', 'lora_te', {}), '')
  assert.equal(await readFitting(t, 'sdxl_base_v1-0', 'lora_te1', {}), '')
  // Metadata that say the model's own family, and cross attention of its width, leave no doubt.
  assert.equal(await readFitting(t, 'sd_v1', 'lora_te1', { ss_base_model_version: 'sd_v1' }), '')
  assert.equal(await readFitting(t, 'sd_v1', 'lora_te1', {}, true), '')
})

test('a state in place of a LoRA is named', async (t) => {
  const told = await refusalOf(await temporaryFolder(t), { weights: [4] }, { lorafuse_state: '{}' })
  assert.match(told, /^LORA_UNSUPPORTED .* received a training state; use the LoRA of the same run$/)
})

test('names and metadata of any length make a short sentence', async (t) => {
  const folder = await temporaryFolder(t)
  await refusalOf(folder, { ['x'.repeat(100_000)]: [1] })
  await refusalOf(folder, { 'lora_unet_x.alpha': [] }, { ss_base_model_version: 'y'.repeat(100_000) })
})
