/**
 * Samplers: latents go from noise to a picture through levels of noise. DDIM with η = 0 is diffusers'
 * (huggingface/diffusers:src/diffusers/schedulers/scheduling_ddim.py); the others are k-diffusion's, in A1111's spacing
 * (crowsonkb/k-diffusion:k_diffusion/sampling.py and external.py). They hold x₀ + σ·ε, and the UNet gets that over √(1 + σ²), at a timestep
 * that may lie between two of the training's.
 */
import type { SchedulerConfig } from '../models/configs.js'
import { alphasCumprod } from '../models/schedule.js'
import { type NoiseSchedule, type SamplerName, type Solver, samplers } from '../options/samplers.js'

/** One call of the UNet, and what is made of it. */
export interface Step {
  /** The timestep that the UNet gets. */
  timestep: number
  /** The UNet gets the latents times this. */
  scale: number
  /** Advances `latents`, in place. `prediction`: the UNet's, guided. `noise` makes as many standard normal numbers, new ones for each step. */
  advance(latents: Float32Array, prediction: Float32Array, noise: () => Float32Array): void
}

/** The way of one picture; it remembers earlier steps, so another picture needs another. */
export interface Trajectory {
  /** It begins with standard normal numbers times this. */
  scale: number
  steps: Step[]
}

/** Combines predictions without the prompt `[n, …]` and with it `[n, …]`, concatenated in `predictions`, to the guided ones `[n, …]`. */
export function guide(predictions: Float32Array, scale: number): Float32Array {
  const count = predictions.length / 2
  const guided = new Float32Array(count)
  for (let i = 0; i < count; i++) {
    const without = predictions[i] as number
    guided[i] = without + scale * ((predictions[count + i] as number) - without)
  }
  return guided
}

/** Rounds halves to even, as NumPy does. */
function roundToEven(value: number): number {
  const low = Math.floor(value)
  const rest = value - low
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low
}

/** diffusers' timesteps of DDIM, from the last to the first, to the same number for every count (arXiv:2305.08891, table 2). */
const spacings: Record<SchedulerConfig['timestepSpacing'], (scheduler: SchedulerConfig, count: number) => number[]> = {
  leading: ({ numTrainTimesteps, stepsOffset }, count) => {
    const stride = Math.floor(numTrainTimesteps / count)
    return Array.from({ length: count }, (_, i) => (count - 1 - i) * stride + stepsOffset)
  },
  /** Begins with the last one, as a model with zero terminal SNR needs. */
  trailing: ({ numTrainTimesteps }, count) => {
    // What NumPy's arange adds each time. Trap: for some counts, e.g. 61, that makes it too long, and diffusers goes on to timestep −1.
    const apart = numTrainTimesteps - (numTrainTimesteps - numTrainTimesteps / count)
    return Array.from({ length: count }, (_, i) => roundToEven(numTrainTimesteps - i * apart) - 1)
  },
  linspace: ({ numTrainTimesteps }, count) => {
    const apart = (numTrainTimesteps - 1) / Math.max(1, count - 1)
    return Array.from({ length: count }, (_, i) => roundToEven((count - 1 - i) * apart))
  },
}

/** A step of DDIM: the timestep, ᾱ of the latents before it and after it. */
interface Level {
  timestep: number
  alpha: number
  next: number
}

/** Each step goes as far as the timesteps are apart when they lie evenly, rounded down, whatever the next one is: so does diffusers. */
function ddimLevels(scheduler: SchedulerConfig, count: number): Level[] {
  const { numTrainTimesteps, setAlphaToOne, timestepSpacing } = scheduler
  const alphas = alphasCumprod(scheduler)
  const [stride, last] = [Math.floor(numTrainTimesteps / count), numTrainTimesteps - 1]
  const alphaOf = (timestep: number) => {
    if (timestep < 0) return setAlphaToOne ? 1 : (alphas[0] as number)
    return alphas[Math.min(timestep, last)] as number
  }
  // Trap: with nearly as many steps as timesteps, the offset leads beyond the last timestep, where diffusers fails.
  return spacings[timestepSpacing](scheduler, count).map((timestep) => {
    return { timestep: Math.min(timestep, last), alpha: alphaOf(timestep), next: alphaOf(timestep - stride) }
  })
}

/** x₀ = (x − √(1−ᾱ) ε) / √ᾱ, then x' = √ᾱ' x₀ + √(1−ᾱ') ε; of v, x₀ = √ᾱ x − √(1−ᾱ) v and ε = √ᾱ v + √(1−ᾱ) x. */
function ddim(scheduler: SchedulerConfig, count: number): Trajectory {
  const { predictionType, clipSample, clipSampleRange: range } = scheduler
  const steps = ddimLevels(scheduler, count).map(({ timestep, alpha, next }): Step => {
    const [signal, sigma] = [Math.sqrt(alpha), Math.sqrt(1 - alpha)]
    const [nextSignal, nextSigma] = [Math.sqrt(next), Math.sqrt(1 - next)]
    const advance = (latents: Float32Array, prediction: Float32Array) => {
      for (let i = 0; i < latents.length; i++) {
        const [x, predicted] = [latents[i] as number, prediction[i] as number]
        const isV = predictionType === 'v_prediction'
        const epsilon = isV ? signal * predicted + sigma * x : predicted
        const clean = isV ? signal * x - sigma * predicted : (x - sigma * epsilon) / signal
        latents[i] = nextSignal * (clipSample ? Math.min(range, Math.max(-range, clean)) : clean) + nextSigma * epsilon
      }
    }
    return { timestep, scale: 1, advance }
  })
  return { scale: 1, steps }
}

/** ᾱ of the last timestep where the SNR ends at zero: σ is to be finite, and A1111 and ComfyUI take this. */
const LEAST_ALPHA = 4.8973451890853435e-8

/** The noise levels of training, log σ with σ² = (1 − ᾱ) / ᾱ, by timestep. */
function logSigmas(scheduler: SchedulerConfig): Float64Array {
  return alphasCumprod(scheduler)
    .map((alpha) => Math.max(alpha, LEAST_ALPHA))
    .map((alpha) => Math.log((1 - alpha) / alpha) / 2)
}

/** Returns σ at a timestep, also between two: log σ is interpolated. */
function sigmaAt(logs: Float64Array, timestep: number): number {
  const low = Math.floor(timestep)
  const [a, b] = [logs[low] as number, logs[Math.min(low + 1, logs.length - 1)] as number]
  return Math.exp(a + (timestep - low) * (b - a))
}

/** Returns the timestep of σ, the inverse of `sigmaAt`. */
function timestepOf(logs: Float64Array, sigma: number): number {
  const log = Math.log(sigma)
  const above = logs.findIndex((value) => value >= log)
  if (above < 0) return logs.length - 1
  if (above === 0) return 0
  const [a, b] = [logs[above - 1] as number, logs[above] as number]
  return above - 1 + (log - a) / (b - a)
}

/** `count` numbers from `first` to `last`, evenly; one alone is `first`. */
function ramp(first: number, last: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => first + ((last - first) * i) / Math.max(1, count - 1))
}

/** The exponent of Karras et al. (arXiv:2206.00364). */
const RHO = 7

/** Levels that a solver goes through, the largest first, without the 0 at the end. */
const schedules: Record<
  Exclude<NoiseSchedule, 'Automatic'>,
  (logs: Float64Array, count: number) => { timestep: number; sigma: number }[]
> = {
  /** Timesteps at even distances, the first and the last of the training included. */
  Uniform: (logs, count) => ramp(logs.length - 1, 0, count).map((timestep) => ({ timestep, sigma: sigmaAt(logs, timestep) })),
  Karras: (logs, count) => {
    const [most, least] = [logs.at(-1) as number, logs[0] as number].map((log) => Math.exp(log / RHO)) as [number, number]
    return ramp(most, least, count).map((root) => ({ timestep: timestepOf(logs, root ** RHO), sigma: root ** RHO }))
  },
}

/** A step between two levels, of which `next` may be 0; `last` is the level before them. */
interface Move {
  sigma: number
  next: number
  last: number | undefined
}

/** Goes from x₀ + σ·ε to x₀ + σ'·ε, which is an Euler step: x + (σ' − σ) (x − x₀) / σ. */
function towards(latents: Float32Array, clean: (i: number) => number, sigma: number, next: number): void {
  const ratio = next / sigma
  for (let i = 0; i < latents.length; i++) latents[i] = ratio * (latents[i] as number) + (1 - ratio) * clean(i)
}

/** Makes a function that advances latents, given what it takes to be the picture. */
const solvers: Record<
  Exclude<Solver, 'ddim'>,
  () => (latents: Float32Array, clean: Float32Array, move: Move, noise: () => Float32Array) => void
> = {
  euler:
    () =>
    (latents, clean, { sigma, next }) =>
      towards(latents, (i) => clean[i] as number, sigma, next),

  /** Goes down further than the next level, and up again with new noise. */
  eulerAncestral:
    () =>
    (latents, clean, { sigma, next }, noise) => {
      const up = (next * Math.sqrt(sigma ** 2 - next ** 2)) / sigma
      const down = next ** 2 / sigma
      towards(latents, (i) => clean[i] as number, sigma, down)
      if (next === 0) return
      const added = noise()
      for (let i = 0; i < latents.length; i++) latents[i] = (latents[i] as number) + up * (added[i] as number)
    },

  /** DPM-Solver++(2M) (arXiv:2211.01095): the picture is extrapolated from this step's and the last one's. */
  dpmpp2m: () => {
    let before: Float32Array | undefined
    return (latents, clean, { sigma, next, last }) => {
      const old = before
      before = clean
      if (old === undefined || last === undefined || next === 0) return towards(latents, (i) => clean[i] as number, sigma, next)
      const half = Math.log(sigma / next) / Math.log(last / sigma) / 2
      towards(latents, (i) => (1 + half) * (clean[i] as number) - half * (old[i] as number), sigma, next)
    }
  },
}

/** Returns x₀ as the prediction has it: of ε, x − σ ε; of v, x / (σ² + 1) − σ v / √(σ² + 1). */
function cleanOf(latents: Float32Array, prediction: Float32Array, sigma: number, isV: boolean): Float32Array {
  const [keep, take] = isV ? [1 / (sigma ** 2 + 1), sigma / Math.sqrt(sigma ** 2 + 1)] : [1, sigma]
  return latents.map((x, i) => keep * x - take * (prediction[i] as number))
}

/** Plans a picture of `count` steps, which are at most the scheduler's number of timesteps. */
export function trajectory(name: SamplerName, scheduler: SchedulerConfig, count: number): Trajectory {
  const { solver, schedule } = samplers[name]
  if (solver === 'ddim') return ddim(scheduler, count)
  const levels = schedules[schedule === 'Automatic' ? 'Uniform' : schedule](logSigmas(scheduler), count)
  const isV = scheduler.predictionType === 'v_prediction'
  const solve = solvers[solver]()
  const steps = levels.map(({ timestep, sigma }, i): Step => {
    const move = { sigma, next: levels[i + 1]?.sigma ?? 0, last: levels[i - 1]?.sigma }
    return {
      timestep,
      scale: 1 / Math.sqrt(sigma ** 2 + 1),
      advance: (latents, prediction, noise) => solve(latents, cleanOf(latents, prediction, sigma, isV), move, noise),
    }
  })
  return { scale: levels[0]!.sigma, steps }
}
