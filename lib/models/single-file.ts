/**
 * Reads a model that is one file, as LDM and SGM lay it out: configs worked out from keys and shapes, weights as places in the file.
 * Networks are found by what their keys begin with; whatever else is there (EMA copies, an optimizer's states) is not looked at.
 */
import { basename } from 'node:path'
import { LorafuseError } from '../errors.js'
import { isNumberType, widen } from '../files/floats.js'
import type { Json } from '../files/json.js'
import { type Checkpoint, readCheckpoint, readPart, weightsOf } from './checkpoint.js'
import { ConfigReader, type PredictionType, type UNetConfig, type VaeConfig } from './configs.js'
import { foreignModel } from './families.js'
import { foreignKind, kindWithoutUNet } from './foreign-files.js'
import { clipLayout, OPEN_CLIP_G, OPEN_CLIP_H, openClipLayout, type Shapes, unetLayout, vaeLayout } from './layouts.js'
import { openClipNames, unetNames, vaeNames } from './ldm-names.js'
import type { NetworkParts, Parts } from './model.js'
import { isLeftover, ourName } from './names.js'
import { NETWORKS } from './networks.js'
import { sd2 } from './sd2.js'
import { clipTokenizer } from './tokenizer.js'

const WHAT = 'a checkpoint'
const UNET = 'model.diffusion_model.'

/** The noise that all of these models were trained with, in the words of diffusers' scheduler_config.json. */
const SCHEDULER = {
  ...{ num_train_timesteps: 1000, beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' },
  ...{ clip_sample: false, set_alpha_to_one: false, steps_offset: 1 },
}
/** More than the tensor of which the scatter is looked at has. */
const MOST_BIAS = 2 ** 16

type Rename = (name: string) => string | undefined

/** How a network may lie in a file. */
interface Layout {
  network: string
  /** Begins its keys. */
  prefix: string
  /** Works out its config, and the core's names of its tensors, theirs where it has none; undefined where it is not there. */
  read(shapes: Shapes, path: string): { config: Json; rename: Rename } | undefined
}

function readUNet(shapes: Shapes, path: string) {
  const config = unetLayout(shapes, path)
  if (!config) return undefined
  const names = unetNames(config as unknown as UNetConfig)
  return { config, rename: (name: string) => names.diffusers(name) ?? name }
}

function readVae(shapes: Shapes) {
  const config = vaeLayout(shapes)
  if (!config) return undefined
  const names = vaeNames(config as unknown as VaeConfig)
  const isDiffusers = shapes.has('encoder.down_blocks.0.resnets.0.conv1.weight')
  return { config, rename: (name: string) => (isDiffusers ? ourName('vae', name) : (names.diffusers(name) ?? name)) }
}

/** Whether a tensor is of a layer that a text encoder has but does not use. */
function isUnused({ num_hidden_layers: used }: Json, name: string): boolean {
  return Number(/^(?:transformer\.resblocks|(?:text_model\.)?encoder\.layers)\.(\d+)\./.exec(name)?.[1] ?? 0) >= (used as number)
}

/** `act`: the activation, which shapes do not tell. */
const readClip =
  (act: 'quick_gelu' | 'gelu', isSd2 = false) =>
  (shapes: Shapes) => {
    const spelled = new Map([...shapes].map(([name, shape]) => [ourName('clip', name), shape]))
    const config = clipLayout(spelled, act, isSd2)
    return config && { config, rename: (name: string) => (isUnused(config, name) ? undefined : ourName('clip', name)) }
  }

const readOpenClip = (isSd2: boolean) => (shapes: Shapes) => {
  const config = openClipLayout(shapes, isSd2)
  if (!config) return undefined
  const names = openClipNames(config.num_hidden_layers as number)
  return { config, rename: (name: string) => (isUnused(config, name) ? undefined : (names.diffusers(name) ?? name)) }
}

/** Reads a text encoder where it is as wide as this network's. */
const ofWidth = (least: number, below: number, read: Layout['read']) => (shapes: Shapes, path: string) => {
  const found = read(shapes, path)
  const width = found?.config.hidden_size as number
  return width >= least && width < below ? found : undefined
}

/** Under transformers' names, those of SD1, SDXL's first and SD2 are told apart by their width. */
const CLIP_L = ofWidth(0, OPEN_CLIP_H, readClip('quick_gelu'))
const CLIP_H = ofWidth(OPEN_CLIP_H, OPEN_CLIP_G, readClip('gelu', true))
/** Under OpenCLIP's, SD2's is told from the one that SDXL and its refiner have. */
const SD2_TEXT = ofWidth(0, OPEN_CLIP_G, readOpenClip(true))

/** The networks of a whole checkpoint; of two layouts of one, a file has one. */
const LAYOUTS: Layout[] = [
  { network: 'unet', prefix: UNET, read: readUNet },
  { network: 'vae', prefix: 'first_stage_model.', read: readVae },
  { network: 'text_encoder', prefix: 'cond_stage_model.transformer.', read: CLIP_L },
  { network: 'text_encoder', prefix: 'cond_stage_model.transformer.', read: CLIP_H },
  { network: 'text_encoder', prefix: 'cond_stage_model.model.', read: SD2_TEXT },
  { network: 'text_encoder', prefix: 'conditioner.embedders.0.model.', read: SD2_TEXT },
  { network: 'text_encoder', prefix: 'conditioner.embedders.0.transformer.', read: readClip('quick_gelu') },
  { network: 'text_encoder_2', prefix: 'conditioner.embedders.1.model.', read: readOpenClip(false) },
  { network: 'text_encoder_2', prefix: 'conditioner.embedders.1.transformer.', read: readClip('gelu') },
]

/** Networks in a file of their own. */
const ALONE: Layout[] = [
  { network: 'unet', prefix: '', read: readUNet },
  { network: 'unet', prefix: 'diffusion_model.', read: readUNet },
  { network: 'vae', prefix: '', read: readVae },
  { network: 'text_encoder', prefix: '', read: CLIP_L },
  { network: 'text_encoder', prefix: '', read: CLIP_H },
  { network: 'text_encoder', prefix: '', read: SD2_TEXT },
  { network: 'text_encoder_2', prefix: '', read: ofWidth(OPEN_CLIP_G, Infinity, readClip('gelu')) },
  { network: 'text_encoder_2', prefix: '', read: ofWidth(OPEN_CLIP_G, Infinity, readOpenClip(false)) },
]

/** Reads a network where a layout fits. */
function readNetwork({ network, prefix, read }: Layout, checkpoint: Checkpoint): NetworkParts | undefined {
  const { path, tensors } = checkpoint
  const own = tensors.filter(({ name }) => name.startsWith(prefix))
  const found = read(new Map(own.map(({ name, shape }) => [name.slice(prefix.length), shape])), path)
  if (!found) return undefined
  const { architecture } = NETWORKS[network]!
  const rename = (theirs: string) => {
    if (!theirs.startsWith(prefix)) return undefined
    const name = theirs.slice(prefix.length)
    return isLeftover(architecture, name) ? undefined : found.rename(name)
  }
  return { config: new ConfigReader(path, found.config), files: [weightsOf(checkpoint, rename)] }
}

/** Finds the networks that are in a file, by the names of diffusers' folders. */
export function networksIn(checkpoint: Checkpoint): Record<string, NetworkParts> {
  const networks: Record<string, NetworkParts> = {}
  for (const layouts of [LAYOUTS, ALONE]) {
    for (const layout of layouts) networks[layout.network] ??= readNetwork(layout, checkpoint) as NetworkParts
    for (const [name, parts] of Object.entries(networks)) if (!parts) delete networks[name]
    if (Object.keys(networks).length > 0) break
  }
  return networks
}

/** SD2's two models differ in no shape: ComfyUI tells them apart by how far these values scatter (comfy/supported_models.py, SD20). */
const SCATTER = { name: `${UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias`, ofEpsilon: 0.09 }
/** The step that SD2's 512 px model was published at (huggingface/diffusers:…/convert_from_ckpt.py). */
const STEP_OF_EPSILON = '875000'

async function scatter({ path, tensors }: Checkpoint): Promise<number | undefined> {
  const tensor = tensors.find(({ name }) => name === SCATTER.name)
  if (!tensor || tensor.problem !== undefined || !isNumberType(tensor.dtype) || tensor.byteLength > MOST_BIAS) return undefined
  const values = widen(await readPart(path, WHAT, tensor.offset, tensor.byteLength), tensor.dtype)
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length)
}

/** Finds what a model predicts, and what says so. */
async function predictionOf(checkpoint: Checkpoint, isSd2: boolean): Promise<{ type: string; by: string }> {
  const { metadata, tensors } = checkpoint
  if (tensors.some(({ name }) => name === 'v_pred')) return { type: 'v_prediction', by: 'the key v_pred' }
  const stated = metadata['modelspec.prediction_type']
  if (stated) return { type: stated === 'v' ? 'v_prediction' : stated, by: 'modelspec.prediction_type' }
  if (metadata['modelspec.architecture']?.startsWith('stable-diffusion-v2-768-v'))
    return { type: 'v_prediction', by: 'modelspec.architecture' }
  if (isSd2 && metadata.global_step === STEP_OF_EPSILON) return { type: 'epsilon', by: `its step, ${STEP_OF_EPSILON}` }
  const scattered = isSd2 ? await scatter(checkpoint) : undefined
  if (scattered === undefined) return { type: 'epsilon', by: 'its keys and shapes' }
  return { type: scattered > SCATTER.ofEpsilon ? 'v_prediction' : 'epsilon', by: 'the norms of its last transformer' }
}

/** The size that a model says it was trained at, in latents, or that of SD2's model of 768 px. */
function sampleSize({ metadata }: Checkpoint, isSd2: boolean, prediction: string): Json {
  const [, width, height] = /^(\d{2,4})x(\d{2,4})$/.exec(metadata['modelspec.resolution'] ?? '') ?? []
  if (width && height) return { sample_size: [Number(height), Number(width)].map((side) => Math.max(1, Math.floor(side / 8))) }
  return isSd2 && prediction === 'v_prediction' ? { sample_size: 96 } : {}
}

/** Reads a checkpoint in one file. `asked`: what it predicts if not what it says. Throws as `readModel`, `PICKLE_INVALID` and `PICKLE_UNSUPPORTED`. */
export async function readSingleFile(path: string, asked?: PredictionType): Promise<Parts> {
  const checkpoint = await readCheckpoint(path, WHAT)
  const names = checkpoint.tensors.map(({ name }) => name)
  const foreign = foreignKind(names)
  if (foreign !== undefined) throw foreignModel(path, foreign)
  const networks = networksIn(checkpoint)
  const unet = networks.unet
  if (!unet) throw foreignModel(path, kindWithoutUNet(names))
  const isSd2 = sd2.matches(unet.config)
  const { type, by } = await predictionOf(checkpoint, isSd2)
  Object.assign(unet.config.json, sampleSize(checkpoint, isSd2, type))
  // As ComfyUI, which heeds it of models that predict v.
  const hasZeroSnr = names.includes('ztsnr') && [type, asked].includes('v_prediction')
  const scheduler = { ...SCHEDULER, prediction_type: type, rescale_betas_zero_snr: hasZeroSnr }
  return {
    name: basename(path),
    path,
    networks,
    missing: (network, title) => {
      const option = network === 'vae' ? '--vae' : '--text-encoder'
      return new LorafuseError(
        'MODEL_INCOMPLETE',
        `Expected ${title} in ${path} but received none; name a file or folder that has it with ${option}`,
      )
    },
    tokenizer: (_, padId) => clipTokenizer(padId),
    scheduler: new ConfigReader(path, scheduler),
    schedulerBy: by,
  }
}
