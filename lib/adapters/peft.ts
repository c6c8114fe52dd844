/** Names of tensors in LoRA files of diffusers and PEFT (huggingface/diffusers:src/diffusers/loaders/lora_pipeline.py). */
import type { TensorName } from './kohya.js'

const ROLES: Record<string, string> = { lora_A: 'down', lora_B: 'up', 'lora.down': 'down', 'lora.up': 'up' }
const NAME = /^(base_model\.model|\w+)\.(.+?)\.(lora_A|lora_B|lora\.down|lora\.up)(?:\.default)?\.weight$/

/** Parses a tensor's name; undefined if it is neither diffusers' nor PEFT's. PEFT's names tell no network; the UNet is meant. */
export function parsePeftName(name: string): TensorName | undefined {
  const [, prefix, path, matrix] = NAME.exec(name) ?? []
  if (prefix === undefined || path === undefined) return undefined
  const network = prefix === 'base_model.model' ? 'unet' : prefix
  return { network, layer: path.replaceAll('.', '_'), role: ROLES[matrix as string] as string }
}
