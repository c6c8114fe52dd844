/**
 * What other tools call the options of `generate`: A1111's API (modules/processing.py), diffusers' pipelines, and kohya's gen_img.py with the
 * letters of its prompts (kohya-ss/sd-scripts:gen_img.py); and their usual short forms.
 */
import { adviceOf, type Instead, namesOf, use } from './instead.js'

const again = (option: string) => `draw again with another ${option}`

const instead: Instead[] = [
  { names: 'guidance_scale guidance cfg_scale scale l', advice: use, option: 'cfg' },
  { names: 'num_inference_steps sampling_steps ddim_steps s', advice: use, option: 'steps' },
  { names: 'scheduler sampler_name sampler_index sampling_method', advice: use, option: 'sampler' },
  { names: 'negative neg_prompt neg uncond n', advice: use, option: 'negativePrompt' },
  { names: 'w', advice: use, option: 'width' },
  { names: 'h', advice: use, option: 'height' },
  { names: 'd generator', advice: use, option: 'seed' },
  { names: 'ckpt', advice: use, option: 'model' },
  { names: 'network_weights lora_weights', advice: use, option: 'lora' },
  { names: 'network_mul lora_scale', advice: (option) => `${use(option)} FILE:WEIGHT`, option: 'lora' },
  { names: 'outdir out_dir output_dir outfile', advice: use, option: 'output' },
  { names: 'fp16 bf16', advice: use, option: 'precision' },
  { names: 'num_images_per_prompt images_per_prompt batch_size n_iter n_samples', advice: again, option: 'seed' },
]

/** Says what to do instead of an option, whatever its case and whether it is written with `-` or `_`. `spelt`: see `adviceOf`. */
export function insteadInDrawing(name: string, spelt: (option: string) => string): string | undefined {
  return adviceOf(instead, name.toLowerCase().replaceAll('-', '_'), spelt)
}

/** Lists the options that there is advice for. */
export const drawingNames = () => namesOf(instead)
