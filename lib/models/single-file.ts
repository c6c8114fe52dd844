/**
 * Reads a model that is one file, as LDM and SGM lay it out: configs worked out from keys and shapes, weights as places in the file.
 * Networks are found by what their keys begin with; whatever else is there (EMA copies, an optimizer's states) is not looked at.
 */
import { basename } from 'node:path'
import { LorafuseError } from '../errors.js'
import type { Json } from '../files/json.js'
import { openFile, readRange } from '../files/read.js'
import { widen } from '../files/floats.js'
import type { Network } from '../native.js'
import { type Checkpoint, readCheckpoint, weightsOf } from './checkpoint.js'
import { ConfigReader, type UNetConfig, type VaeConfig } from './configs.js'
import { foreignModel } from './families.js'
import { foreignKind, kindWithoutUNet } from './foreign-files.js'
import { clipLayout, openClipLayout, type Shapes, unetLayout, vaeLayout } from './layouts.js'
import { openClipNames, unetNames, vaeNames } from './ldm-names.js'
import type { NetworkParts, Parts } from './model.js'
import { ourName } from './names.js'
import { clipTokenizer } from './tokenizer.js'

const WHAT = 'a checkpoint'
const UNET = 'model.diffusion_model.'

type Rename = (name: string) => string | undefined

/** How a network may lie in a file. */
interface Layout {
  network: string
  /** Begins its keys. */
  prefix: string
  /** Works out its config, and the core's names of its tensors; undefined where it is not there. */
  read(shapes: Shapes, path: string): { config: Json; rename: Rename } | undefined
}

function readUNet(shapes: Shapes, path: string) {
  const config = unetLayout(shapes, path)
  if (!config) return undefined
  const names = unetNames(config as unknown as UNetConfig)
  return { config, rename: (name: string) => names.diffusers(name) }
}

function readVae(shapes: Shapes) {
  const config = vaeLayout(shapes)
  if (!config) return undefined
  const names = vaeNames(config as unknown as VaeConfig)
  const isDiffusers = shapes.has('encoder.down_blocks.0.resnets.0.conv1.weight')
  return { config, rename: (name: string) => (isDiffusers ? ourName('vae', name) : names.diffusers(name)) }
}

/** `act`: the activation, which shapes do not tell. */
const readClip = (act?: string) => (shapes: Shapes) => {
  const spelled = new Map([...shapes].map(([name, shape]) => [ourName('clip', name), shape]))
  const config = clipLayout(spelled, act)
  return config && { config, rename: (name: string) => ourName('clip', name) }
}

const readOpenClip = (isSd2: boolean) => (shapes: Shapes) => {
  const config = openClipLayout(shapes, isSd2)
  if (!config) return undefined
  const names = openClipNames(config.num_hidden_layers as number)
  return { config, rename: (name: string) => (name === 'text_projection' && !isSd2 ? name : names.diffusers(name)) }
}

/** The networks of a whole checkpoint; of two layouts of one, a file has one. */
const LAYOUTS: Layout[] = [
  { network: 'unet', prefix: UNET, read: readUNet },
  { network: 'vae', prefix: 'first_stage_model.', read: readVae },
  { network: 'text_encoder', prefix: 'cond_stage_model.transformer.', read: readClip() },
  { network: 'text_encoder', prefix: 'cond_stage_model.model.', read: readOpenClip(true) },
  { network: 'text_encoder', prefix: 'conditioner.embedders.0.transformer.', read: readClip() },
  { network: 'text_encoder_2', prefix: 'conditioner.embedders.1.model.', read: readOpenClip(false) },
  { network: 'text_encoder_2', prefix: 'conditioner.embedders.1.transformer.', read: readClip('gelu') },
]

/** Networks in a file of their own. */
const ALONE: Layout[] = [
  { network: 'unet', prefix: '', read: readUNet },
  { network: 'unet', prefix: 'diffusion_model.', read: readUNet },
  { network: 'vae', prefix: '', read: readVae },
  { network: 'text_encoder', prefix: '', read: readClip() },
  { network: 'text_encoder_2', prefix: '', read: readOpenClip(false) },
]

/** Reads a network where a layout fits. */
function readNetwork({ prefix, read }: Layout, checkpoint: Checkpoint): NetworkParts | undefined {
  const { path, tensors } = checkpoint
  const own = tensors.filter(({ name }) => name.startsWith(prefix))
  const found = read(new Map(own.map(({ name, shape }) => [name.slice(prefix.length), shape])), path)
  if (!found) return undefined
  const rename = (name: string) => (name.startsWith(prefix) ? found.rename(name.slice(prefix.length)) : undefined)
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
