# Completion of swarmctl for fish.
# Made by `python -m tools.completions` from the command tree of swarmctl; do not edit.
#
# Nothing is started: names come from globbing. Functions with -S read and set local variables of
# __swarmctl_complete: path (the commands typed so far), position (how many arguments stand before the cursor),
# typed (the word at the cursor), before (what stands before the value in it), kind and list (what is wanted).

function __swarmctl_enter -S -d 'Enter a command, if there is one'
    switch "$path:$argv[1]"
        case ':run'
            set path 'run'
        case ':doctor'
            set path 'doctor'
        case ':status' ':ps'
            set path 'status'
        case ':logs'
            set path 'logs'
        case ':profiles' ':profile'
            set path 'profiles'
        case ':keys' ':key'
            set path 'keys'
        case ':rollouts'
            set path 'rollouts'
        case ':swarm'
            set path 'swarm'
        case ':identity'
            set path 'identity'
        case ':completion'
            set path 'completion'
        case 'profiles:list'
            set path 'profiles list'
        case 'profiles:show'
            set path 'profiles show'
        case 'profiles:validate'
            set path 'profiles validate'
        case 'profiles:new'
            set path 'profiles new'
        case 'profiles:import'
            set path 'profiles import'
        case 'keys:set'
            set path 'keys set'
        case 'keys:list'
            set path 'keys list'
        case 'keys:test'
            set path 'keys test'
        case 'keys:delete'
            set path 'keys delete'
        case 'keys:import'
            set path 'keys import'
        case 'rollouts:show'
            set path 'rollouts show'
        case 'rollouts:export'
            set path 'rollouts export'
        case 'rollouts:stats'
            set path 'rollouts stats'
        case 'swarm:new'
            set path 'swarm new'
        case 'swarm:show'
            set path 'swarm show'
        case 'swarm:invite'
            set path 'swarm invite'
        case 'swarm:peers'
            set path 'swarm peers'
        case 'swarm:leaderboard'
            set path 'swarm leaderboard'
        case 'swarm:leave'
            set path 'swarm leave'
        case 'identity:show'
            set path 'identity show'
        case 'identity:new'
            set path 'identity new'
        case 'identity:backup'
            set path 'identity backup'
        case 'identity:restore'
            set path 'identity restore'
        case 'completion:install'
            set path 'completion install'
        case 'completion:uninstall'
            set path 'completion uninstall'
        case 'completion:show'
            set path 'completion show'
        case '*'
            return 1
    end
    return 0
end

function __swarmctl_takes -S -d 'Set kind to what an option takes; leave it empty for a flag'
    switch "$path:$argv[1]"
        case 'run:-p' 'run:--profile'
            set kind profile
        case 'run:--node'
            set kind node
        case 'run:--task'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'run:--model'
            set kind directory
        case 'run:--device'
            set kind words
            set list auto cpu cuda mps xpu
        case 'run:--rounds'
            set kind none
        case 'run:--seed'
            set kind none
        case 'run:--offload'
            set kind words
            set list off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'run:--max-usd'
            set kind none
        case 'run:--join'
            set kind none
        case 'run:--set'
            set kind setting
        case 'doctor:-p' 'doctor:--profile'
            set kind profile
        case 'doctor:--node'
            set kind node
        case 'doctor:--set'
            set kind setting
        case 'status:--node'
            set kind node
        case 'logs:--node'
            set kind node
        case 'logs:-n' 'logs:--lines'
            set kind none
        case 'profiles show:--set'
            set kind setting
        case 'profiles new:--from'
            set kind words
            set list cpu default demo gpu mac
        case 'profiles new:--model'
            set kind directory
        case 'profiles new:--task'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'profiles new:--device'
            set kind words
            set list auto cpu cuda mps xpu
        case 'profiles new:--rounds'
            set kind none
        case 'profiles new:--set'
            set kind setting
        case 'profiles import:--name'
            set kind none
        case 'keys set:--host'
            set kind none
        case 'rollouts show:--node'
            set kind node
        case 'rollouts show:--round'
            set kind none
        case 'rollouts show:--question'
            set kind none
        case 'rollouts show:--source'
            set kind none
        case 'rollouts show:--last'
            set kind none
        case 'rollouts export:--node'
            set kind node
        case 'rollouts export:--round'
            set kind none
        case 'rollouts export:--question'
            set kind none
        case 'rollouts export:--source'
            set kind none
        case 'rollouts export:--last'
            set kind none
        case 'rollouts export:--format'
            set kind words
            set list jsonl parquet
        case 'rollouts export:-o' 'rollouts export:--output'
            set kind file
        case 'rollouts stats:--node'
            set kind node
        case 'rollouts stats:--by'
            set kind none
        case 'swarm new:-p' 'swarm new:--profile'
            set kind profile
        case 'swarm new:--task'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'swarm new:--game'
            set kind words
            set list sampling study-group
        case 'swarm new:--stage-time'
            set kind none
        case 'swarm new:--set'
            set kind setting
        case 'swarm show:--node'
            set kind node
        case 'swarm invite:--node'
            set kind node
        case 'swarm peers:--node'
            set kind node
        case 'swarm leaderboard:--node'
            set kind node
        case 'swarm leave:--node'
            set kind node
        case 'identity show:--node'
            set kind node
        case 'identity new:--node'
            set kind node
        case 'identity backup:--node'
            set kind node
        case 'identity restore:--node'
            set kind node
    end
end

function __swarmctl_options -S -d 'Set list to the options there are here'
    switch "$path"
        case ''
            set list --version\t'Print the version' \
                --help\t'Show this message and exit'
        case 'run'
            set list --profile\t'Profile: a name, or a .toml file' \
                --node\t'Node; its directory has this name' \
                --task\t'Task, preset or FILE.jsonl; may be repeated' \
                --model\t'An id on the Hugging Face hub, or a directory' \
                --device\t'auto, cpu, cuda, cuda:1, mps or xpu' \
                --rounds\t'Rounds in the node\'s whole life; 0: until stopped' \
                --seed\t'Seed of sampling and adapters' \
                --offload\t'Let an API generate; off: generate on this machine' \
                --max-usd\t'Dollars that the node may spend in its whole life; or unlimited' \
                --join\t'Join a swarm: the line that `swarmctl swarm invite` prints' \
                --set\t'Any setting of a profile; may be repeated' \
                --dry-run\t'Resolve and check everything, touch nothing' \
                --plain\t'One sentence a round instead of the live view' \
                --json\t'Print the result as JSON, last; ask nothing' \
                --quiet\t'Only warnings, errors and the end' \
                --verbose\t'Also say what is saved; show tracebacks' \
                --yes\t'Answer yes to every question' \
                --no-input\t'Ask nothing; fail where an answer is needed' \
                --help\t'Show this message and exit'
        case 'doctor'
            set list --profile\t'Profile: a name, or a .toml file' \
                --node\t'Node' \
                --set\t'As for run; may be repeated' \
                --deep\t'Also compute, for up to 2 minutes; and ask each provider for one word, which costs money' \
                --offline\t'Ask nothing of the network' \
                --fix\t'Cure what is safe: modes, leftovers, missing directories' \
                --report\t'Print Markdown for a bug report, without keys and names' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'status'
            set list --node\t'One node' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'logs'
            set list --node\t'Node' \
                --lines\t'How many lines' \
                --follow\t'Go on printing what is added' \
                --json\t'Print events (JSON lines) instead of the log' \
                --help\t'Show this message and exit'
        case 'profiles'
            set list --help\t'Show this message and exit'
        case 'profiles list'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles show'
            set list --origin\t'Say where each value comes from' \
                --set\t'As for run; may be repeated' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles validate'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles new'
            set list --from\t'The built-in profile it begins with' \
                --model\t'An id on the Hugging Face hub, or a directory' \
                --task\t'Task or preset; may be repeated' \
                --device\t'auto, cpu, cuda, cuda:1, mps or xpu' \
                --rounds\t'Rounds; 0: until stopped' \
                --set\t'Any setting; may be repeated' \
                --yes\t'Write over a profile of this name' \
                --no-input\t'Ask nothing' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles import'
            set list --name\t'Name of the profile' \
                --no-test\t'Do not ask services whether they accept the keys found' \
                --insecure-storage\t'Keep keys in files only you can read, not in the keyring' \
                --yes\t'Write over a profile of this name' \
                --no-input\t'Ask nothing' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'keys'
            set list --help\t'Show this message and exit'
        case 'keys set'
            set list --host\t'Base URL of the API, for a name you choose' \
                --no-test\t'Save the key without testing it' \
                --insecure-storage\t'Store the key unencrypted in a file only you can read' \
                --yes\t'Answer yes to every question' \
                --no-input\t'Ask nothing; fail where an answer is needed' \
                --help\t'Show this message and exit'
        case 'keys list'
            set list --json\t'Print JSON; ask nothing' \
                --help\t'Show this message and exit'
        case 'keys test'
            set list --json\t'Print JSON; ask nothing' \
                --no-input\t'Ask nothing; fail where an answer is needed' \
                --help\t'Show this message and exit'
        case 'keys delete'
            set list --all\t'Delete every saved key' \
                --yes\t'Answer yes to every question' \
                --no-input\t'Ask nothing; fail where an answer is needed' \
                --help\t'Show this message and exit'
        case 'keys import'
            set list --no-test\t'Save the key without testing it' \
                --insecure-storage\t'Store the key unencrypted in a file only you can read' \
                --yes\t'Answer yes to every question' \
                --no-input\t'Ask nothing; fail where an answer is needed' \
                --help\t'Show this message and exit'
        case 'rollouts'
            set list --help\t'Show this message and exit'
        case 'rollouts show'
            set list --node\t'Node' \
                --round\t'Only this round' \
                --question\t'Only questions whose digest begins so' \
                --source\t'Only a kind (teacher, policy, …) or a provider (openai, local)' \
                --last\t'How many, the latest' \
                --full\t'Leave nothing out of long texts' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'rollouts export'
            set list --node\t'Node' \
                --round\t'Only this round' \
                --question\t'Only questions whose digest begins so' \
                --source\t'Only a kind (teacher, policy, …) or a provider (openai, local)' \
                --last\t'How many, the latest' \
                --correct\t'Only what was verified as right' \
                --format\t'[default: jsonl; parquet for a FILE.parquet]' \
                --output\t'A file, or - for stdout' \
                --yes\t'Write over a file that is there' \
                --help\t'Show this message and exit'
        case 'rollouts stats'
            set list --node\t'Node' \
                --by\t'What to tell apart: any of provider,model,stage' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm'
            set list --help\t'Show this message and exit'
        case 'swarm new'
            set list --profile\t'Profile of the first node' \
                --task\t'Task, preset or FILE.jsonl; may be repeated' \
                --game\t'Game to play' \
                --stage-time\t'Seconds per stage of the study-group game' \
                --open\t'Let strangers join; limit all peers together to a part of each batch' \
                --set\t'Any setting of the first node; may be repeated' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm show'
            set list --node\t'Node to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm invite'
            set list --node\t'Node to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm peers'
            set list --node\t'Node to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm leaderboard'
            set list --node\t'Node to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm leave'
            set list --node\t'Node to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'identity'
            set list --help\t'Show this message and exit'
        case 'identity show'
            set list --node\t'One node' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'identity new'
            set list --node\t'Node to use' \
                --yes\t'Answer yes to every question' \
                --no-input\t'Ask nothing; fail where an answer is needed' \
                --json\t'Print JSON; ask nothing' \
                --help\t'Show this message and exit'
        case 'identity backup'
            set list --node\t'Node to use' \
                --passphrase\t'Encrypt it with a passphrase (hidden prompt or stdin)' \
                --yes\t'Overwrite an existing file' \
                --no-input\t'Ask nothing; fail where an answer is needed' \
                --json\t'Print JSON; ask nothing' \
                --help\t'Show this message and exit'
        case 'identity restore'
            set list --node\t'Node to use' \
                --yes\t'Answer yes to every question' \
                --no-input\t'Ask nothing; fail where an answer is needed' \
                --json\t'Print JSON; ask nothing' \
                --help\t'Show this message and exit'
        case 'completion'
            set list --help\t'Show this message and exit'
        case 'completion install'
            set list --yes\t'Also a file that swarmctl did not write' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'completion uninstall'
            set list --yes\t'Also a file that swarmctl did not write' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'completion show'
            set list --help\t'Show this message and exit'
    end
end

function __swarmctl_argument -S -d 'Set kind to what may stand here as an argument'
    switch "$path:$position"
        case ':0'
            set list run\t'Start a node, or go on with it where it stopped' \
                doctor\t'Check this machine, the installation and a profile; say what cures each trouble' \
                status\t'Tell how the nodes of this machine are: running or not, how far, how accurate' \
                logs\t'Print what a node\'s trainer said last' \
                profiles\t'List, show, check and make profiles: the files that say how a node runs' \
                keys\t'Save, list, test and delete API keys' \
                rollouts\t'Show, export and count what was generated for a node: completions, their rewards, where from, at which price' \
                swarm\t'Create a swarm, invite others and see its peers' \
                identity\t'Show, create, back up and restore node identities' \
                completion\t'Complete commands, options, profiles and nodes with the Tab key, in bash, zsh and fish'
        case 'profiles:0'
            set list list\t'List the profiles there are, built-in ones and yours' \
                show\t'Print every setting of a profile as a run would see it: TOML that can be saved as a profile of your own' \
                validate\t'Check profiles: every wrong key and value, with the nearest right name' \
                new\t'Make a profile of your own' \
                import\t'Make a profile from RL Swarm\'s YAML, and say what became of every key in it'
        case 'keys:0'
            set list set\t'Save an API key (hidden prompt or stdin)' \
                list\t'List API keys' \
                test\t'Test whether services accept your keys' \
                delete\t'Delete a saved key from the keyring or its file' \
                import\t'Save keys found in the environment or a .env file'
        case 'rollouts:0'
            set list show\t'Print prompts, completions, what each reward is made of and why, source, provider, model and price' \
                export\t'Write completions as JSON lines or Parquet, a row each, with provider and model on every row' \
                stats\t'Count requests, tokens, dollars, completions, the share verified as right, and places that were given up'
        case 'swarm:0'
            set list new\t'Create a swarm and its first node' \
                show\t'Show a swarm\'s charter and this machine\'s node in it' \
                invite\t'Print the command that others use to join' \
                peers\t'List the peers that the node knows' \
                leaderboard\t'Rank peers by what the node learned from them' \
                leave\t'Leave a swarm and continue alone'
        case 'identity:0'
            set list show\t'Show the identities of this machine\'s nodes' \
                new\t'Create a new identity for a node' \
                backup\t'Save a node\'s identity to a file' \
                restore\t'Restore a node\'s identity from a backup'
        case 'completion:0'
            set list install\t'Put the script where the shell looks for completions' \
                uninstall\t'Remove what install wrote' \
                show\t'Print the script, to be put anywhere'
        case 'profiles show:0'
            set kind profile
        case 'profiles validate:0'
            set kind profile
        case 'profiles import:0'
            set kind file
        case 'keys set:0'
            set kind words
            set list openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb
        case 'keys test:0'
            set kind words
            set list openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb
        case 'keys delete:0'
            set kind words
            set list openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb
        case 'keys import:0'
            set kind file
        case 'identity backup:0'
            set kind file
        case 'identity restore:0'
            set kind file
        case 'completion install:0'
            set kind words
            set list bash zsh fish
        case 'completion uninstall:0'
            set kind words
            set list bash zsh fish
        case 'completion show:0'
            set kind words
            set list bash zsh fish
    end
end

function __swarmctl_setting -S -d 'Offer settings, or the values of one'
    if not string match -q '*=*' -- "$typed"
        set list checkpoint.every=\t'Rounds between checkpoints' \
            checkpoint.keep=\t'Checkpoints kept: should the newest be damaged, the one before is used' \
            eval.every=\t'Rounds between evaluations; there is always one before and one after' \
            eval.questions=\t'Held-out questions, known to this node alone' \
            game.group_size=\t'G: completions of one question' \
            game.groups=\t'I: questions a round, each answered by a whole group' \
            game.kind=\t'"sampling": one stage, I local groups and J of peers (swarm sampling, arXiv 2509.08721)' \
            game.partial_credit=\t'Reward what the verifier gives for near misses' \
            game.role=\t'How the node speaks in "study-group"; "random": another for each question' \
            game.rounds=\t'Rounds in the node\'s whole life' \
            generation.batch=\t'Completions generated at a time' \
            generation.max_completion_tokens=\t'Length at which a completion is cut' \
            generation.max_prompt_tokens=\t'A question whose prompt is longer is skipped with a warning; prompts are never cut' \
            generation.temperature=\t'Sampling temperature; the loss scores the same distribution' \
            hub.every=\t'Rounds between pushes; there is always one after the last round' \
            hub.private=\t'Whether a repository that is made here is private' \
            hub.repo=\t'Repository on the Hugging Face hub, OWNER/NAME; it is made if there is none' \
            model.device=\t'"auto" takes the best of CUDA, MPS, XPU and CPU; or one of cuda, cuda:1, mps, xpu, cpu' \
            model.dtype=\t'Number format of the computation' \
            model.gradient_checkpointing=\t'Recompute activations in the backward pass: less memory, about a third slower' \
            model.lora.alpha=\t'Scale: the update is multiplied by alpha / rank' \
            model.lora.dropout=\t'Dropout on the adapter\'s input while training' \
            model.lora.rank=\t'Rank r of the update B·A' \
            model.lora.targets=\t'Which modules get an adapter: "all-linear", or names separated by commas' \
            model.name=\t'A causal language model: an id on the hub, a directory, or "tiny" (built on the spot, for the demo)' \
            model.revision=\t'Branch, tag or commit on the hub' \
            model.threads=\t'CPU threads of torch' \
            node.fresh=\t'Start from nothing at every run' \
            node.name=\t'Name of the node, and of its directory' \
            node.seed=\t'Seed of sampling and of adapter weights' \
            offload.ahead=\t'Rounds whose completions are asked for while the step before them is still being trained' \
            offload.batch=\t'Ask through the provider\'s Batch API: half the price, answers within 24 hours' \
            offload.fallback=\t'Who generates while the provider cannot, in order: providers, or "local"' \
            offload.key=\t'The one place the key may come from' \
            offload.kind=\t'What the API\'s text is, and so what is learned from it' \
            offload.limits.concurrency=\t'Requests in flight' \
            offload.limits.requests_per_minute=\t'A limit that the service states' \
            offload.limits.timeout=\t'Seconds that one request may take' \
            offload.limits.tokens_per_minute=\t'The same for tokens, of prompts and completions together' \
            offload.limits.usd=\t'Dollars that this node may spend in its whole life, at all providers together' \
            offload.limits.usd_per_day=\t'Dollars a day (UTC)' \
            offload.model=\t'The model to ask' \
            offload.on_limit=\t'What happens when a cap is reached' \
            offload.prices=\t'Prices by provider, before those that are known here' \
            offload.provider=\t'A row of the provider table, or a [providers.NAME] of one\'s own' \
            offload.reasoning_effort=\t'How much a reasoning model thinks' \
            offload.reasoning_tokens=\t'Tokens a reasoning model may think, beside generation.max_completion_tokens for its answer' \
            offload.rounds=\t'Rounds in which the API generates: "*", "0-9,20-29", "100-" or "every 3"' \
            offload.share=\t'Part of each group that the API fills; this machine fills the rest' \
            offload.stages=\t'Stages in which the API generates' \
            offload.when=\t'"failed": this machine samples whole groups, and the API is asked only where none of them is right' \
            providers= \
            report.to=\t'Any of "tensorboard" (files in the node\'s directory) and "wandb"' \
            swarm.announce=\t'Addresses under which others reach this node, as /ip4/203.0.113.7/tcp/4001' \
            swarm.external=\t'J: groups of peers that a step of the game "sampling" learns from' \
            swarm.join=\t'An invitation, swarm1:HASH@ADDRESS,…: it stands for the swarm\'s charter, which fixes tasks and game' \
            swarm.loopback=\t'Listen on this machine alone' \
            swarm.port=\t'Port to listen on' \
            swarm.relay=\t'Let peers with a public address pass on connections to nodes that cannot be reached directly' \
            tasks= \
            train.beta=\t'Weight of the KL penalty on own rows' \
            train.delta=\t'Two-sided clip: the largest ratio for negative advantages, on rows served elsewhere' \
            train.epsilon=\t'Lower clip of the importance ratio' \
            train.epsilon_high=\t'Upper clip of the importance ratio (clip-higher, DAPO section 3.1)' \
            train.learning_rate=\t'Peak learning rate of AdamW' \
            train.max_grad_norm=\t'Gradients are clipped to this norm' \
            train.max_lag=\t'Rows of the node\'s own policy older than this many steps are dropped' \
            train.micro_batch=\t'Rows of one forward and backward pass' \
            train.off_policy_weight=\t'λ: weight of the loss of foreign rows beside that of own rows' \
            train.peer_loss=\t'What is learned from peers\' groups: positive advantages only, both signs (arXiv 2509.08721), or filtered truncated importance sampling (arXiv 2605.22537)' \
            train.teacher_loss=\t'What is learned from a teacher\'s verified text: weighted likelihood, or policy shaping (arXiv 2504.14945)' \
            train.warmup_steps=\t'Steps over which the learning rate rises; it is constant afterwards, as a node has no planned end' \
            train.weight_decay=\t'Decoupled weight decay' \
            warmup.batch=\t'Demonstrations a step' \
            warmup.learning_rate=\t'Learning rate of the warm-up alone' \
            warmup.steps=\t'Optimizer steps'
        return
    end
    set -l key (string replace -r '=.*' '' -- $typed)
    set before "$before$key="
    switch "$key"
        case 'game.kind'
            set list sampling study-group
        case 'game.partial_credit'
            set list true false
        case 'game.role'
            set list none pirate knight mobster announcer founder random
        case 'hub.private'
            set list true false
        case 'model.device'
            set list auto cpu cuda mps xpu
        case 'model.dtype'
            set list auto float32 bfloat16 float16
        case 'model.gradient_checkpointing'
            set list true false
        case 'node.fresh'
            set list true false
        case 'offload.batch'
            set list true false
        case 'offload.key'
            set list auto key_file environment credentials keyring file
        case 'offload.kind'
            set list auto policy policy_text teacher relay
        case 'offload.on_limit'
            set list stop local
        case 'offload.provider'
            set list off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'offload.when'
            set list always failed
        case 'swarm.loopback'
            set list true false
        case 'swarm.relay'
            set list true false
        case 'tasks'
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'train.peer_loss'
            set list positive sapo f_tis
        case 'train.teacher_loss'
            set list gated luffy
    end
end

# Control characters would end or split what is offered.
function __swarmctl_names -d 'Print names of files without their suffix'
    for file in $argv[2..]
        string match -qr '[[:cntrl:]]' -- $file
        or string replace -r -- '^.*/' '' (string sub -e -(string length -- $argv[1]) -- $file)
    end
end

function __swarmctl_complete -d 'Print what may stand at the cursor'
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    set -l path ''
    set -l position 0
    set -l before ''
    set -l kind ''
    set -l list
    set -l only_arguments
    for word in $words[2..]
        if test -n "$kind"
            set kind ''
        else if test -z "$only_arguments"; and string match -q -- -- $word
            set only_arguments 1
        else if test -z "$only_arguments"; and string match -q -- '-*' $word
            string match -q -- '*=*' $word; or __swarmctl_takes $word
        else
            __swarmctl_enter $word; or set position (math $position + 1)
        end
    end
    if test -z "$kind$only_arguments"; and string match -q -- '--*=*' $typed
        set before (string replace -r '=.*' '=' -- $typed)
        set typed (string replace -r '^[^=]*=' '' -- $typed)
        __swarmctl_takes (string trim -r -c = -- $before)
    else if test -z "$kind$only_arguments"; and string match -q -- '-*' $typed
        __swarmctl_options
    else if test -z "$kind"
        __swarmctl_argument
    end
    set -l profiles $HOME/.config/swarmctl/profiles
    set -l nodes $HOME/.local/share/swarmctl/nodes
    if set -q SWARMCTL_HOME; and test -n "$SWARMCTL_HOME"
        set -l home (string replace -r '^~(?=/|$)' -- $HOME $SWARMCTL_HOME)
        set profiles $home/profiles
        set nodes $home/nodes
    end
    switch "$kind"
        case setting
            __swarmctl_setting
        case node
            set list (__swarmctl_names / $nodes/*/)
        case profile
            set list cpu default demo gpu mac (__swarmctl_names .toml $profiles/*.toml)
            string match -q -- (string trim -l -c '"\'' -- "$typed")'*' $list; or set list (__fish_complete_path $typed)
        case file
            set list (__fish_complete_path $typed)
        case directory
            set list (__fish_complete_directories $typed '')
    end
    test -z "$list"; or printf '%s\n' $before$list
end

complete -c swarmctl -f -a '(__swarmctl_complete)'
