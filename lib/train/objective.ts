/**
 * Training objectives as coefficients: the network gets x_t = a·x₀ + b·ε and learns target = c·x₀ + d·ε. One row for each type of
 * prediction; the native side only sees the coefficients.
 */
import type { PredictionType, SchedulerConfig } from '../models/configs.js'
import { alphasCumprod } from '../models/schedule.js'

export interface Coefficients {
  /** a, b */
  noisy: [number, number]
  /** c, d */
  target: [number, number]
}

export interface Objective {
  /** Returns the noise level of each timestep: ᾱ or σ. */
  levels(scheduler: SchedulerConfig): Float64Array
  coefficients(level: number): Coefficients
}

export const objectives: Record<PredictionType, Objective> = {
  /** ε itself (DDPM, arXiv:2006.11239). */
  epsilon: {
    levels: alphasCumprod,
    coefficients: (alpha) => ({ noisy: [Math.sqrt(alpha), Math.sqrt(1 - alpha)], target: [0, 1] }),
  },
  /** v = √ᾱ·ε − √(1−ᾱ)·x₀ (arXiv:2202.00512). */
  v_prediction: {
    levels: alphasCumprod,
    coefficients: (alpha) => ({
      noisy: [Math.sqrt(alpha), Math.sqrt(1 - alpha)],
      target: [-Math.sqrt(1 - alpha), Math.sqrt(alpha)],
    }),
  },
  /** The velocity ε − x₀ of a straight path (rectified flow, arXiv:2209.03003), σ = t / T. */
  flow: {
    levels: ({ numTrainTimesteps }) => Float64Array.from({ length: numTrainTimesteps }, (_, t) => t / numTrainTimesteps),
    coefficients: (sigma) => ({ noisy: [1 - sigma, sigma], target: [-1, 1] }),
  },
}
