/** Reads a model in diffusers' folder layout: its configs, and weights as places in its files. */
import { basename, join } from 'node:path'
import { LorafuseError, shown } from '../errors.js'
import { isRecord, type Json, readRecord } from '../files/json.js'
import { exists, listFolder, unlessMissing } from '../files/read.js'
import type { Network, WeightFile } from '../native.js'
import { readCheckpoint, weightsOf } from './checkpoint.js'
import { ConfigReader } from './configs.js'
import { foreignModel, foreignPipeline } from './families.js'
import type { NetworkParts, Parts } from './model.js'
import { isLeftover, ourName } from './names.js'
import { NETWORKS } from './networks.js'
import { loadTokenizer } from './tokenizer.js'
import { usualFile, weightSets } from './weight-files.js'

function incomplete(what: string, where: string): LorafuseError {
  return new LorafuseError(
    'MODEL_INCOMPLETE',
    `Expected ${what} at ${where} but received none; copy the whole diffusers folder of the model`,
  )
}

export function invalidPart(path: string, expected: string, received: string): LorafuseError {
  return new LorafuseError('MODEL_INVALID', `Expected ${expected} for ${path} but received ${received}`)
}

async function readConfig(path: string, what: string): Promise<ConfigReader> {
  const title = `${what}'s config`
  const json = await unlessMissing(readRecord(path, title, (received) => invalidPart(path, 'a JSON object', received)))
  if (!json) throw incomplete(title, path)
  return new ConfigReader(path, json)
}

/** Lists the shards of an index, each once. */
async function readShards(index: string, what: string): Promise<string[]> {
  const { weight_map: map } = (await readConfig(index, what)).json
  const shards = isRecord(map) ? [...new Set(Object.values(map))] : []
  const odd = shards.find((shard) => typeof shard !== 'string' || !/^[^/\\\0]+\.(safetensors|bin)$/.test(shard))
  if (shards.length === 0 || odd !== undefined)
    throw invalidPart(index, 'names of .safetensors or .bin files in a weight_map', shown(odd ?? map))
  return (shards as string[]).sort()
}

/** Finds a network's weight files: one, or the shards that an index lists; of several sets the first of which all is there. */
async function weightPaths(folder: string, architecture: Network['architecture'], what: string): Promise<string[]> {
  const title = `${what}'s weights`
  let absent: string | undefined
  for (const { files, index } of weightSets(await listFolder(folder, title), architecture)) {
    const paths = (index === undefined ? files : await readShards(join(folder, index), what)).map((name) => join(folder, name))
    // Links may lead nowhere.
    const found = await Promise.all(paths.map((path) => exists(path, title)))
    if (!found.includes(false)) return paths
    absent ??= paths[found.indexOf(false)]
  }
  throw incomplete(title, absent ?? join(folder, usualFile(architecture)))
}

/** Reads the headers of a network's weights. */
async function readWeights(folder: string, architecture: Network['architecture'], what: string): Promise<WeightFile[]> {
  const files: WeightFile[] = []
  for (const path of await weightPaths(folder, architecture, what)) {
    const checkpoint = await readCheckpoint(path, `${what}'s weights`)
    files.push(weightsOf(checkpoint, (name) => (isLeftover(architecture, name) ? undefined : ourName(architecture, name))))
  }
  return files
}

/** Refuses what is no diffusers folder of a model with a UNet, naming it as its index does. */
async function checkKind(folder: string, names: string[]): Promise<void> {
  const path = join(folder, 'model_index.json')
  const index: Json = (await unlessMissing(readRecord(path, 'a model', (received) => invalidPart(path, 'a JSON object', received)))) ?? {}
  const className = typeof index._class_name === 'string' ? index._class_name : undefined
  const foreign = className && foreignPipeline(className)
  if (foreign) throw foreignModel(folder, foreign)
  // Without a UNet, and with what other models have instead of one.
  if (names.includes('unet') || !['transformer', 'prior', 'decoder'].some((part) => names.includes(part))) return
  throw foreignModel(folder, className === undefined ? 'parts of another model' : shown(className))
}

/** Reads the folder of one network, by the name that diffusers gives it. */
export async function readNetworkFolder(folder: string, network: string): Promise<NetworkParts> {
  const { architecture, title } = NETWORKS[network]!
  const config = await readConfig(join(folder, 'config.json'), title)
  return { config, files: await readWeights(folder, architecture, title) }
}

/** Reads configs and weight headers of a folder in diffusers' layout. Throws as `readModel`. */
export async function readDiffusers(folder: string): Promise<Parts> {
  const names = await listFolder(folder, 'a model folder')
  await checkKind(folder, names)
  const networks: Parts['networks'] = {}
  for (const name of Object.keys(NETWORKS)) if (names.includes(name)) networks[name] = await readNetworkFolder(join(folder, name), name)
  const scheduler = 'scheduler/scheduler_config.json'
  return {
    name: basename(folder),
    path: folder,
    networks,
    missing: (network, title) => incomplete(title, join(folder, network)),
    tokenizer: async (network, padId) => {
      const tokenizer = NETWORKS[network]!.tokenizer!
      if (!names.includes(tokenizer)) throw incomplete(`the tokenizer of ${NETWORKS[network]!.title}`, join(folder, tokenizer))
      return loadTokenizer(join(folder, tokenizer), padId)
    },
    scheduler: await readConfig(join(folder, scheduler), 'the scheduler'),
    schedulerBy: scheduler,
  }
}
