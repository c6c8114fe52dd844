/** What to do instead of kohya's options that are not options here (kohya-ss/sd-scripts:train_network.py, library/train_util.py). */
import { LorafuseError, shown } from '../errors.js'

interface Instead {
  /** Names of options, separated by blanks. */
  names: string
  /** `option` stands for the name of the option here. */
  advice: (option: string) => string
  option?: string
}

const leaveOut = (reason: string) => () => `leave it out: ${reason}`
const missing = (reason: string) => () => `not supported: ${reason}`
const use = (option: string) => `use ${option}`

const instead: Instead[] = [
  { names: 'network_module', advice: leaveOut('what is trained is a LoRA, as by networks.lora') },
  {
    names: 'cache_latents cache_latents_to_disk cache_text_encoder_outputs cache_text_encoder_outputs_to_disk skip_cache_check',
    advice: leaveOut('latents and text embeddings are computed once and held in memory'),
  },
  { names: 'vae_batch_size text_encoder_batch_size', advice: leaveOut('images and captions are encoded one by one') },
  { names: 'xformers sdpa mem_eff_attn', advice: leaveOut("attention's scores are never in memory as a whole") },
  { names: 'torch_compile dynamo_backend', advice: leaveOut('there is no PyTorch') },
  { names: 'save_model_as use_safetensors', advice: leaveOut('files are safetensors') },
  { names: 'save_state save_state_on_train_end', advice: leaveOut('a state is saved with each checkpoint') },
  { names: 'max_data_loader_n_workers persistent_data_loader_workers', advice: leaveOut('what is trained on is in memory') },
  {
    names: 'lowram highvram cpu_offload_checkpointing',
    advice: leaveOut('memory is planned before the first step'),
  },
  { names: 'prior_loss_weight reg_data_dir', advice: missing('regularization images') },
  { names: 'optimizer_type use_8bit_adam use_lion_optimizer', advice: leaveOut('the optimizer is AdamW') },
  { names: 'optimizer_args', advice: use, option: 'weightDecay' },
  { names: 'unet_lr', advice: use, option: 'learningRate' },
  { names: 'caption_extention', advice: use, option: 'captionExtension' },
  { names: 'full_fp16 full_bf16 fp8_base fp8_base_unet', advice: use, option: 'precision' },
  { names: 'no_half_vae', advice: leaveOut('the VAE always computes in f32') },
  { names: 'disable_mmap_load_safetensors', advice: leaveOut('weights are mapped, not read') },
  { names: 'v2', advice: leaveOut('the family of a model is found from its files') },
  { names: 'v_parameterization', advice: (option) => `${use(option)} v_prediction`, option: 'predictionType' },
  {
    names: 'network_weights dim_from_weights base_weights base_weights_multiplier',
    advice: missing('a LoRA is trained from its beginning'),
  },
  { names: 'network_dropout scale_weight_norms', advice: missing('a LoRA has a rank, an alpha and targets') },
  { names: 'network_args', advice: (option) => `${use(option)} and what else it sets, each by itself`, option: 'convRank' },
  {
    names:
      'shuffle_caption keep_tokens keep_tokens_separator caption_separator secondary_separator enable_wildcard caption_prefix caption_suffix ' +
      'caption_dropout_rate caption_dropout_every_n_epochs caption_tag_dropout_rate token_warmup_min token_warmup_step weighted_captions',
    advice: missing('captions are used as they are'),
  },
  { names: 'color_aug face_crop_aug_range', advice: missing('images are flipped and cropped alone') },
  { names: 'alpha_mask masked_loss conditioning_data_dir', advice: missing('masks') },
  {
    names:
      'noise_offset noise_offset_random_strength multires_noise_iterations multires_noise_discount adaptive_noise_scale ip_noise_gamma ' +
      'min_snr_gamma debiased_estimation_loss min_timestep max_timestep loss_type huber_schedule huber_c',
    advice: missing('the loss is the plain mean squared error'),
  },
  {
    names: 'lr_scheduler_type lr_scheduler_args lr_scheduler_num_cycles lr_scheduler_power lr_decay_steps',
    advice: missing('schedulers have no parameters but the warmup'),
  },
  {
    names: 'sample_every_n_steps sample_every_n_epochs sample_at_first sample_prompts sample_sampler',
    advice: () => 'use lorafuse generate',
  },
  { names: 'logging_dir log_with log_prefix log_tracker_name wandb_run_name wandb_api_key', advice: leaveOut('a loss curve is written') },
  { names: 'dataset_config config_file in_json', advice: () => 'give each option by itself' },
]

const NETWORK_ARGS = 'network_args'

/**
 * Writes kohya's `--network_args conv_dim=4 conv_alpha=1` as options of their own, `--conv-rank=4 --conv-alpha=1`; `options`: the name of
 * the option for each of kohya's. Throws `OPTION_UNKNOWN`.
 */
export function withoutNetworkArgs(words: string[], options: Map<string, string>): string[] {
  const at = words.findIndex((word) => word === `--${NETWORK_ARGS}` || word.startsWith(`--${NETWORK_ARGS}=`))
  if (at < 0 || options.size === 0) return words
  const [word, ...rest] = words.slice(at) as [string, ...string[]]
  const inline = word.includes('=') ? [word.slice(word.indexOf('=') + 1)] : []
  const next = rest.findIndex((other) => other.startsWith('--'))
  const [own, others] = next < 0 ? [rest, []] : [rest.slice(0, next), rest.slice(next)]
  const written = [...inline, ...own].map((pair) => {
    const [, name = pair, value] = /^([^=]*)=(.*)$/s.exec(pair) ?? []
    const option = options.get(name)
    if (option !== undefined && value !== undefined) return `--${option}=${value}`
    const known = [...options.keys()].map((key) => `${key}=`).join(' or ')
    throw new LorafuseError('OPTION_UNKNOWN', `Expected ${known} after --${NETWORK_ARGS} but received ${shown(pair)}`)
  })
  return [...words.slice(0, at), ...written, ...withoutNetworkArgs(others, options)]
}

/** Says what to do instead of an option that kohya has. `spelt`: writes the name of an option here. */
export function insteadOf(name: string, spelt: (option: string) => string): string | undefined {
  const found = instead.find(({ names }) => names.split(' ').includes(name))
  return found?.advice(found.option === undefined ? '' : spelt(found.option))
}

/** Lists the options that there is advice for. */
export const insteadOfAll = () => instead.flatMap(({ names }) => names.split(' '))
