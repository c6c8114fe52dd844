/** Learning rate schedulers, one row each: the rows' names are the words of `--lr-scheduler`. */

interface LrScheduler {
  /** The factor of the learning rate after the warmup; `progress` goes from 0 to 1 over the steps that are left. */
  factor(progress: number): number
  /** The rate depends on how many steps the run has, so a resumed run must have as many. */
  dependsOnSteps: boolean
  /** kohya's other name for it, used where there is a warmup. */
  kohyaWithWarmup?: string
}

/** Formulas of huggingface/diffusers:src/diffusers/optimization.py. */
export const lrSchedulers = {
  constant: { factor: () => 1, dependsOnSteps: false, kohyaWithWarmup: 'constant_with_warmup' },
  cosine: { factor: (progress) => Math.max(0, (1 + Math.cos(Math.PI * progress)) / 2), dependsOnSteps: true },
} as const satisfies Record<string, LrScheduler>

export type LrSchedulerName = keyof typeof lrSchedulers

export const lrSchedulerNames = Object.keys(lrSchedulers) as LrSchedulerName[]

export interface LearningRate {
  learningRate: number
  lrScheduler: LrSchedulerName
  lrWarmupSteps: number
}

/** Returns the learning rate of step `step` of `steps`, counted from 1. As in diffusers, a warmup begins with a step at rate 0. */
export function learningRateAt(step: number, steps: number, { learningRate, lrScheduler, lrWarmupSteps }: LearningRate): number {
  const done = step - 1
  if (done < lrWarmupSteps) return (learningRate * done) / lrWarmupSteps
  return learningRate * lrSchedulers[lrScheduler].factor((done - lrWarmupSteps) / Math.max(1, steps - lrWarmupSteps))
}

/** Returns kohya's name of a scheduler, as its metadata and command lines have it. */
export function kohyaScheduler(name: LrSchedulerName, warmupSteps: number): string {
  const { kohyaWithWarmup }: LrScheduler = lrSchedulers[name]
  return (warmupSteps > 0 && kohyaWithWarmup) || name
}
