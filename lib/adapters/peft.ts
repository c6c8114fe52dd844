/**
 * LoRA files of diffusers and PEFT (huggingface/diffusers:src/diffusers/loaders/lora_pipeline.py, utils/state_dict_utils.py): names of
 * tensors in both directions, and the scale, which only the metadata tells.
 */
import { LorafuseError } from '../errors.js'
import type { TensorName } from './kohya.js'

const ROLES: Record<string, string> = { lora_A: 'down', lora_B: 'up', 'lora.down': 'down', 'lora.up': 'up' }
const NAME = /^(base_model\.model|\w+)\.(.+?)\.(lora_A|lora_B|lora\.down|lora\.up)(?:\.default)?\.weight$/

/** Names a tensor: `unet.mid_block.attentions.0.proj_in.lora_A.weight`. */
export function peftName(network: string, path: string, role: string): string {
  return `${network}.${path}.${Object.keys(ROLES).find((key) => ROLES[key] === role)}.weight`
}

/** Parses a tensor's name; undefined if it is neither diffusers' nor PEFT's. PEFT's names tell no network; the UNet is meant. */
export function parsePeftName(name: string): TensorName | undefined {
  const [, prefix, path, matrix] = NAME.exec(name) ?? []
  if (prefix === undefined || path === undefined) return undefined
  const network = prefix === 'base_model.model' ? 'unet' : prefix
  return { network, layer: path.replaceAll('.', '_'), role: ROLES[matrix as string] as string }
}

export function unsupported(path: string, expected: string, received: string): LorafuseError {
  return new LorafuseError('LORA_UNSUPPORTED', `Expected ${expected} in the LoRA ${path} but received ${received}`)
}

/** Reads alpha / rank, the same for all layers, from a file's metadata; 1 if it is not there. Throws `LORA_UNSUPPORTED`. */
export function peftScale(metadata: Record<string, string>, network: string, path: string): number {
  const text = metadata.lora_adapter_metadata
  if (text === undefined) return 1
  let config: Record<string, unknown>
  try {
    config = JSON.parse(text) as Record<string, unknown>
  } catch {
    throw unsupported(path, 'JSON for lora_adapter_metadata', 'something else')
  }
  const value = (key: string) => config[`${network}.${key}`] ?? config[key]
  const [rank, alpha] = [value('r'), value('lora_alpha')]
  if (rank === undefined || alpha === undefined) return 1
  for (const key of ['rank_pattern', 'alpha_pattern']) {
    const pattern = value(key)
    if (pattern && Object.keys(pattern).length > 0) throw unsupported(path, 'one rank and alpha for all layers', `a ${key}`)
  }
  return Number(alpha) / (value('use_rslora') ? Math.sqrt(Number(rank)) : Number(rank))
}
