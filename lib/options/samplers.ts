/** Samplers, one row each: the rows' names are the words of `--sampler`, as A1111 writes them. */

interface Sampler {
  /** How latents go from one level of noise to the next; one function each in `lib/draw/sampler.ts`. */
  solver: 'ddim' | 'euler' | 'eulerAncestral' | 'dpmpp2m'
  /** What a picture's text calls it. */
  title: string
  /** Which levels of noise it goes through, in A1111's words. Automatic: the solver's own. */
  schedule: 'Automatic' | 'Uniform' | 'Karras'
  /** Other tools' names for it (kohya-ss/sd-scripts:library/train_util.py, `sample_sampler`). */
  aliases: string[]
}

/**
 * Automatic means Karras for A1111's DPM++ 2M since its version 1.9, so Uniform is said where it is meant
 * (AUTOMATIC1111/stable-diffusion-webui:modules/sd_samplers_kdiffusion.py).
 */
export const samplers = {
  DDIM: { solver: 'ddim', title: 'DDIM', schedule: 'Automatic', aliases: [] },
  Euler: { solver: 'euler', title: 'Euler', schedule: 'Automatic', aliases: ['k_euler'] },
  'Euler a': { solver: 'eulerAncestral', title: 'Euler a', schedule: 'Automatic', aliases: ['k_euler_a'] },
  'DPM++ 2M': { solver: 'dpmpp2m', title: 'DPM++ 2M', schedule: 'Uniform', aliases: ['dpmsolver++'] },
  'DPM++ 2M Karras': { solver: 'dpmpp2m', title: 'DPM++ 2M', schedule: 'Karras', aliases: ['k_dpmpp_2m_ka'] },
} as const satisfies Record<string, Sampler>

export type SamplerName = keyof typeof samplers
export type Solver = Sampler['solver']
export type NoiseSchedule = Sampler['schedule']

/** Names are the same whatever their case, blanks, underscores and hyphens: `euler_a`, `Euler a`. */
export const foldSampler = (name: string) => name.toLowerCase().replace(/[\s_-]/g, '')

export const samplerNames = Object.keys(samplers) as SamplerName[]

export const samplerAliases = Object.fromEntries(
  samplerNames.flatMap((name) => samplers[name].aliases.map((alias) => [alias, name])),
) as Record<string, SamplerName>
