/** Tells what a file is that cannot be applied as a LoRA: by the names and shapes of its tensors, and its metadata. */
import { LorafuseError, shown } from '../errors.js'
import type { SafetensorsHeader } from '../files/safetensors.js'
import { shownName, type Warn } from './adapter.js'

type Header = Pick<SafetensorsHeader, 'tensors' | 'metadata'>

/** A kind of file, by a name that one of its tensors has. */
type Kind = [name: RegExp, kind: string, advice: string]

const MERGE = 'merge it into the model with the tool that made it, or use a plain LoRA'
const ELSEWHERE = 'use a LoRA'

/** Adapters as LyCORIS and PEFT name them (KohakuBlueleaf/LyCORIS:lycoris/modules), and what is often kept beside LoRAs. */
const KINDS: Kind[] = [
  [/\.hada_[wt][12]/, 'a LoHa', MERGE],
  [/\.lokr_[wt][12]/, 'a LoKr', MERGE],
  [/\.(dora_scale$|lora_magnitude_vector)/, 'a DoRA', MERGE],
  [/\.(boft_[RS]|oft_(blocks|diag|R|S))\b/, 'an OFT or BOFT', MERGE],
  [/\.(a[12]|b[12])\.weight$/, 'a GLoRA', MERGE],
  [/^bundle_emb\./, "a LoRA with OneTrainer's embeddings in it", 'save it without them'],
  [/\.(on_input|ia3_l)$/, 'an (IA)³', MERGE],
  [/\.lora_(mid|cp)\./, 'a LoCon with a core tensor', MERGE],
  [/\.lora[_.](B|up)(\.default)?\.bias$/, 'a LoRA with biases', MERGE],
  [/^lllite_/, 'a ControlNet-LLLite', ELSEWHERE],
  [/\.(diff|diff_b|w_norm|b_norm)$/, 'differences of whole weights', MERGE],
  [/^(control_model\.|controlnet_|lora_controlnet$|input_hint_block\.)/, 'a ControlNet', ELSEWHERE],
  [/^(ip_adapter|image_proj)\./, 'an IP-Adapter', ELSEWHERE],
  [/(^|[._])(motion_modules|temporal_transformer)[._]/, 'a motion module', ELSEWHERE],
  [/^(emb_params|string_to_param|clip_[lg]$|<.+>$)/, 'an embedding of textual inversion', ELSEWHERE],
  [/^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\./, 'a whole checkpoint', ELSEWHERE],
  [
    /^((unet\.)?(conv_in|conv_out)|(encoder|decoder)\.conv_in|(text_model\.)?embeddings\.\w+)\.(weight|bias)$/,
    "a model's own weights",
    ELSEWHERE,
  ],
]

/** LoRAs of layers that have no adapter here; what else a file may be comes first. */
const LAYERS: Kind[] = [
  [
    /[._](conv_in|conv_out|time_embed|time_embedding|label_emb|add_embedding|input_blocks_0_0|out_2)[._]/,
    'a LoRA that also changes what comes before or after the blocks of the UNet',
    'train it without these layers',
  ],
  [
    /text_projection|(token|position)_embedding/,
    'a LoRA that also changes embeddings or the projection of the text',
    'train it without them',
  ],
]

const [SD1, SD2, SDXL] = ['Stable Diffusion 1.x', 'Stable Diffusion 2.x', 'Stable Diffusion XL (SDXL)']

/** Families: their names in kohya's `ss_base_model_version` and in `modelspec.architecture`, and in names of tensors. */
const FAMILIES: [title: string, version: RegExp, name?: RegExp][] = [
  [SD1, /^(sd|stable[-_ ]?diffusion)[-_ ]?v?1/i],
  [SD2, /^(sd|stable[-_ ]?diffusion)[-_ ]?v?2/i],
  [
    SDXL,
    /^(sdxl|stable[-_ ]?diffusion[-_ ]?xl)/i,
    /^(lora_te[12][_.]|text_encoder_2\.|clip_g\.|(lora_unet_|unet\.)(label_emb|(input|middle|output)_blocks?[_.]))/,
  ],
  ['Stable Diffusion 3', /^(sd|stable[-_ ]?diffusion)[-_ ]?v?3/i, /^lora_te3_|joint_blocks/],
  ['Flux', /^flux/i, /^lora_unet_(double|single)_blocks_|single_transformer_blocks/],
  ['a transformer model', /^$/, /^(lora_transformer_|transformer\.|diffusion_model\.)/],
]
/** kohya's name of a text encoder that is the only one. */
const ONLY_TEXT = /^lora_te[_.]/
/** The width of the text that cross attention takes. */
const TEXT_WIDTHS = new Map([
  [768, SD1],
  [1024, SD2],
  [2048, SDXL],
])

/** Names the family that a version stands for, if it is known. */
function knownTitle(version: string | undefined): string | undefined {
  return version ? FAMILIES.find(([, versions]) => versions.test(version))?.[0] : undefined
}

/** Names the family that a version stands for. */
function titleOf(version: string | undefined): string | undefined {
  return version ? (knownTitle(version) ?? shown(version)) : undefined
}

/** The version that metadata name: kohya's, of older scripts `ss_v2` alone, or else that of a model's spec. */
function versionIn({ ss_base_model_version: version, ss_v2: second, 'modelspec.architecture': architecture }: Header['metadata']) {
  const older = second === undefined ? undefined : second === 'True' ? 'sd_v2' : 'sd_v1'
  return version ?? architecture ?? older
}

/** The family that only names of tensors stand for. */
function namedFamily({ tensors }: Header, own: string | undefined): string | undefined {
  const found = FAMILIES.find(([, , pattern]) => pattern && tensors.some(({ name }) => pattern.test(name)))?.[0]
  return found ?? (own === SDXL && tensors.some(({ name }) => ONLY_TEXT.test(name)) ? `${SD1} or 2.x` : undefined)
}

function widthFamily({ tensors }: Header): string | undefined {
  const keys = tensors.find(({ name }) => /attn2[._]to_k[._](lora_down|lora_A|lora\.down)/.test(name))
  return TEXT_WIDTHS.get(keys?.shape[1] ?? 0)
}

/** Names the family that a file was made for, if that is another than `baseModelVersion` (kohya's word, e.g. `sd_v1`), as far as it tells. */
export function otherFamily(header: Header, baseModelVersion: string): string | undefined {
  const own = titleOf(baseModelVersion)
  const found = [namedFamily(header, own), titleOf(versionIn(header.metadata)), widthFamily(header)]
  return found.find((family) => family !== undefined && family !== own)
}

function familyMismatch(path: string, family: string, own: string | undefined): LorafuseError {
  return new LorafuseError('LORA_MISMATCH', `Expected a LoRA for ${own} at ${path} but received one for ${family}; use one for ${own}`)
}

/**
 * Looks whether a file whose tensors all fit was made for another family, as SDXL's first text encoder is as large as that of Stable Diffusion
 * 1.x. Throws `LORA_MISMATCH` if its metadata say so; where only names do, `warn` is told.
 */
export function checkFamily(path: string, header: Header, baseModelVersion: string, warn: Warn): void {
  const own = titleOf(baseModelVersion)
  // Cross attention that fits leaves no doubt.
  if (widthFamily(header) === own) return
  const told = knownTitle(versionIn(header.metadata))
  if (told !== undefined && told !== own) throw familyMismatch(path, told, own)
  const named = namedFamily(header, own)
  if (told !== undefined || named === undefined || named === own) return
  const message = `Expected a LoRA for ${own} at ${path} but its tensors are named as for ${named}; they fit and are applied`
  warn({ code: 'LORA_FAMILY_UNCERTAIN', message, path })
}

function kindIn(kinds: Kind[], { tensors }: Header): { kind: string; advice: string } | undefined {
  for (const [pattern, kind, advice] of kinds) {
    const found = tensors.find(({ name }) => pattern.test(name))
    if (found) return { kind: `${kind} (${shownName(found.name)})`, advice }
  }
  return undefined
}

/** Makes the error of a file with tensors that cannot be applied, which says what the file is; undefined if that is not known. */
export function explain(path: string, header: Header, baseModelVersion: string): LorafuseError | undefined {
  const state = 'lorafuse_state' in header.metadata ? { kind: 'a training state', advice: 'use the LoRA of the same run' } : undefined
  const kind = state ?? kindIn(KINDS, header)
  const family = otherFamily(header, baseModelVersion)
  if (!kind && family !== undefined) return familyMismatch(path, family, titleOf(baseModelVersion))
  const known = kind ?? kindIn(LAYERS, header)
  if (!known) return undefined
  return new LorafuseError('LORA_UNSUPPORTED', `Expected a plain LoRA at ${path} but received ${known.kind}; ${known.advice}`)
}
