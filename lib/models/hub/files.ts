/** Which files of a diffusers repository a training needs, of each network's weights one set. */
import type { Network } from '../../native.js'
import { NETWORKS } from '../networks.js'
import { SETTINGS, VOCABULARIES } from '../tokenizer.js'
import { usualFile, type WeightSet, weightSets } from '../weight-files.js'

/** What a part of a model consists of: files that must be there, of one of several sets, others that are taken if they are, and weights. */
interface Part {
  needed: readonly (readonly string[])[]
  taken?: readonly string[]
  weights?: Network['architecture']
}

const TOKENIZER: Part = { needed: VOCABULARIES, taken: SETTINGS }

/** By the names of diffusers' folders. */
const PARTS: Record<string, Part> = {
  ...Object.fromEntries(
    Object.entries(NETWORKS).map(([name, { architecture }]) => [name, { needed: [['config.json']], weights: architecture }]),
  ),
  ...Object.fromEntries(Object.values(NETWORKS).flatMap(({ tokenizer }) => (tokenizer ? [[tokenizer, TOKENIZER]] : []))),
  scheduler: { needed: [['scheduler_config.json']] },
}
/** What every model has. */
const ALWAYS = ['unet', 'vae', 'text_encoder', 'tokenizer', 'scheduler']
export const INDEX: string = 'model_index.json'
/**
 * The variant that is fetched before the others, which come in the order in which they are read. It has half the bytes, and frozen weights are
 * used in 16 bits anyway; diffusers takes it only where it is asked to.
 */
const SMALL = '.fp16'

/** Lists the whole sets of a network's weights, the one that is fetched first; pickles are the last. */
function fetchedSets(names: string[], architecture: Network['architecture']): string[][] {
  const sets = weightSets(names, architecture).filter(({ isWhole }) => isWhole)
  const rank = ({ isPickle, variant }: WeightSet) => 2 * Number(isPickle) + Number(variant !== SMALL)
  return sets.sort((a, b) => rank(a) - rank(b)).map(({ files }) => files)
}

/**
 * Chooses the files of a model among a repository's paths; of several sets of weights the one that `isHere` in whole, else the smallest.
 * `listed`: the parts that the model's index names, where it is known. Returns what is missing instead if there is no whole model.
 */
export function chooseFiles(
  paths: string[],
  isHere: (path: string) => boolean = () => false,
  listed: string[] = [],
): { files: string[] } | { missing: string } {
  const files = paths.filter((path) => path === INDEX)
  for (const [folder, { needed, taken = [], weights }] of Object.entries(PARTS)) {
    const inside = paths.filter((path) => path.startsWith(`${folder}/`)).map((path) => path.slice(folder.length + 1))
    const put = (names: string[]) => names.map((name) => `${folder}/${name}`)
    if (inside.length === 0 && !ALWAYS.includes(folder) && !listed.includes(folder)) continue
    const absent = needed.map((set) => set.find((name) => !inside.includes(name)))
    if (!absent.includes(undefined)) return { missing: `${folder}/${absent[0]}` }
    files.push(...put(inside.filter((name) => needed.some((set) => set.includes(name)) || taken.includes(name))))
    if (weights === undefined) continue
    const sets = fetchedSets(inside, weights).map(put)
    const chosen = sets.find((set) => set.every(isHere)) ?? sets[0]
    if (!chosen) return { missing: `${folder}/${usualFile(weights)}` }
    files.push(...chosen)
  }
  return { files }
}

/** Lists the parts that a `model_index.json` names. */
export function partsOf(index: Record<string, unknown>): string[] {
  return Object.keys(PARTS).filter((name) => Array.isArray(index[name]) && index[name].every((word) => typeof word === 'string'))
}
