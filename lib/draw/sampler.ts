/**
 * DDIM with η = 0 and classifier-free guidance (huggingface/diffusers:src/diffusers/schedulers/scheduling_ddim.py, "leading" timesteps):
 * x₀ = (x − √(1−ᾱ) ε) / √ᾱ, then x' = √ᾱ' x₀ + √(1−ᾱ') ε.
 */
import type { SchedulerConfig } from '../models/configs.js'
import { alphasCumprod } from '../models/schedule.js'

export interface DdimStep {
  /** The timestep that the UNet gets. */
  timestep: number
  /** ᾱ of the latents before the step. */
  alpha: number
  /** ᾱ of the latents after it. */
  alphaNext: number
}

/** Returns the steps of a picture in order; `count` is at most the scheduler's number of timesteps. */
export function ddimSteps(scheduler: SchedulerConfig, count: number): DdimStep[] {
  const { numTrainTimesteps, stepsOffset, setAlphaToOne } = scheduler
  const alphas = alphasCumprod(scheduler)
  const stride = Math.floor(numTrainTimesteps / count)
  const final = setAlphaToOne ? 1 : (alphas[0] as number)
  return Array.from({ length: count }, (_, i) => {
    // Trap: with as many steps as timesteps, the offset leads beyond the last timestep, where diffusers fails.
    const begin = (count - 1 - i) * stride + stepsOffset
    const timestep = Math.min(begin, numTrainTimesteps - 1)
    return { timestep, alpha: alphas[timestep] as number, alphaNext: begin >= stride ? (alphas[begin - stride] as number) : final }
  })
}

/** Combines ε without the prompt `[n, …]` and ε with it `[n, …]`, concatenated in `predictions`, to the guided ε `[n, …]`. */
export function guide(predictions: Float32Array, scale: number): Float32Array {
  const count = predictions.length / 2
  const guided = new Float32Array(count)
  for (let i = 0; i < count; i++) {
    const without = predictions[i] as number
    guided[i] = without + scale * ((predictions[count + i] as number) - without)
  }
  return guided
}

/** Advances `latents` by one step, in place. `clip`: limit x₀ to [−1, 1], the scheduler's `clipSample`. */
export function ddimStep(latents: Float32Array, noise: Float32Array, { alpha, alphaNext }: DdimStep, clip: boolean): void {
  const [signal, sigma] = [Math.sqrt(alpha), Math.sqrt(1 - alpha)]
  const [nextSignal, nextSigma] = [Math.sqrt(alphaNext), Math.sqrt(1 - alphaNext)]
  for (let i = 0; i < latents.length; i++) {
    const epsilon = noise[i] as number
    const clean = ((latents[i] as number) - sigma * epsilon) / signal
    latents[i] = nextSignal * (clip ? Math.min(1, Math.max(-1, clean)) : clean) + nextSigma * epsilon
  }
}
