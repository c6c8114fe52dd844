/** Which networks a run trains, each with a learning rate of its own: the UNet, text encoders, or both. */
import { LorafuseError } from '../errors.js'
import type { Family, Model } from '../models/model.js'
import type { TextEncoder } from '../native.js'
import { type Label, type ResolvedTrainOptions, valuesInARow } from '../options/resolve.js'

export interface TrainedPart {
  network: string
  /** Of the optimizer: index into `UpdateInput.groups`. */
  group: number
  learningRate: number
  isText: boolean
}

export type PartOptions = Pick<
  ResolvedTrainOptions,
  'learningRate' | 'textEncoderLr' | 'networkTrainTextEncoderOnly' | 'stopTextEncoderTraining' | 'clipSkip'
>

/**
 * Lists what is trained: the UNet in group 0, then each text encoder whose rate is not 0. One rate is that of all encoders. Without any they
 * are trained, at the UNet's, only where nothing else is: unlike kohya, which then always trains them (networks/lora.py,
 * prepare_optimizer_params). Throws `OPTION_INVALID` for more rates than encoders, or where nothing is left to train.
 */
export function trainedParts(options: PartOptions, { trained, text }: Pick<Family, 'trained' | 'text'>, label: Label): TrainedPart[] {
  const { learningRate, textEncoderLr, networkTrainTextEncoderOnly } = options
  const rates = textEncoderLr ?? (networkTrainTextEncoderOnly ? [learningRate] : [0])
  const name = label('textEncoderLr')
  const refuse = (expected: string) => {
    throw new LorafuseError('OPTION_INVALID', `Expected ${expected} but received ${valuesInARow(rates)}`)
  }
  // No family has more than two, and no more rates are taken.
  if (rates.length > text.length) refuse(`one rate for ${name}, as this model has one text encoder,`)
  const encoders = text.map(({ network }, i) => ({ network, group: i + 1, learningRate: rates[i] ?? rates[0]!, isText: true }))
  const parts = encoders.filter((encoder) => encoder.learningRate > 0)
  if (networkTrainTextEncoderOnly) {
    if (parts.length === 0) refuse(`a rate above 0 for ${name} with ${label('networkTrainTextEncoderOnly')}`)
    return parts
  }
  return [{ network: trained, group: 0, learningRate, isText: false }, ...parts]
}

/** The last update that trains text encoders; 0 where none does. */
export function lastTextStep(parts: TrainedPart[], { stopTextEncoderTraining = Infinity }: PartOptions): number {
  return parts.some(({ isText }) => isText) ? stopTextEncoderTraining : 0
}

/** How the steps that train text encoders make their text. */
export function textEncoders({ family }: Pick<Model, 'family'>, { clipSkip }: PartOptions): TextEncoder[] {
  return family.text.map(({ network, skip, norm, pooled }) => ({ network, skip: skip(clipSkip), norm, pooled }))
}
