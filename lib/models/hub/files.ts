/** Which files of a diffusers repository a training needs, of each network's weights one set. */

/** What a part of a model consists of: files that must be there, others that are taken if they are, and weights. */
interface Part {
  needed?: string[]
  taken?: string[]
  /** How the names of weights begin and end; pickles are the last resort. */
  weights?: [stem: string, extension: string][]
}

const UNET: Part = {
  needed: ['config.json'],
  weights: [
    ['diffusion_pytorch_model', 'safetensors'],
    ['diffusion_pytorch_model', 'bin'],
  ],
}
const TEXT_ENCODER: Part = {
  needed: ['config.json'],
  weights: [
    ['model', 'safetensors'],
    ['pytorch_model', 'bin'],
  ],
}
const TOKENIZER: Part = {
  taken: ['vocab.json', 'merges.txt', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'],
}

/** By the names of diffusers' folders. */
const PARTS: Record<string, Part> = {
  unet: UNET,
  vae: UNET,
  text_encoder: TEXT_ENCODER,
  text_encoder_2: TEXT_ENCODER,
  tokenizer: TOKENIZER,
  tokenizer_2: TOKENIZER,
  scheduler: { needed: ['scheduler_config.json'] },
}
/** What every model has. */
const ALWAYS = ['unet', 'vae', 'text_encoder', 'tokenizer', 'scheduler']
export const INDEX: string = 'model_index.json'
/**
 * Variants of weights, the one that is fetched first. fp16 has half the bytes, and frozen weights are used in 16 bits anyway; diffusers takes it
 * only where it is asked to. The others are for caches and repositories without it.
 */
const VARIANTS = ['.fp16', '', '.bf16', '.fp32', '.non_ema']

/** Finds the sets of files that each hold all weights of a part, in one variant: one file, or an index and its shards. */
function weightSets(paths: string[], folder: string, stem: string, extension: string): string[][] {
  return VARIANTS.flatMap((variant) => {
    const single = `${folder}/${stem}${variant}.${extension}`
    if (paths.includes(single)) return [[single]]
    // diffusers once wrote the variant behind the number.
    const dotted = variant.replace('.', '\\.')
    const pattern = new RegExp(`^${folder}/${stem}(?:${dotted}-\\d{5}-of-(\\d{5})|-\\d{5}-of-(\\d{5})${dotted})\\.${extension}$`)
    const shards = paths.filter((path) => pattern.test(path))
    const [, count, other = count] = pattern.exec(shards[0] ?? '') ?? []
    const index = `${folder}/${stem}.${extension}.index${variant}.json`
    return paths.includes(index) && shards.length === Number(other) ? [[index, ...shards]] : []
  })
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
  for (const [folder, { needed = [], taken = [], weights }] of Object.entries(PARTS)) {
    const inside = paths.filter((path) => path.startsWith(`${folder}/`))
    if (inside.length === 0 && !ALWAYS.includes(folder) && !listed.includes(folder)) continue
    const small = inside.filter((path) => [...needed, ...taken].includes(path.slice(folder.length + 1)))
    const absent = needed.find((name) => !small.includes(`${folder}/${name}`))
    if (absent !== undefined || small.length === 0) return { missing: `${folder}/${absent ?? taken[0]}` }
    files.push(...small)
    if (weights === undefined) continue
    const [sets = []] = weights.map(([stem, extension]) => weightSets(inside, folder, stem, extension)).filter(({ length }) => length > 0)
    const chosen = sets.find((set) => set.every(isHere)) ?? sets[0]
    if (!chosen) return { missing: `${folder}/${weights[0]!.join('.')}` }
    files.push(...chosen)
  }
  return { files }
}

/** Lists the parts that a `model_index.json` names. */
export function partsOf(index: Record<string, unknown>): string[] {
  return Object.keys(PARTS).filter((name) => Array.isArray(index[name]) && index[name].every((word) => typeof word === 'string'))
}
