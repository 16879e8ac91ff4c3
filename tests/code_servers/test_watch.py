"""What is noticed of the files that are served from."""

from pathlib import Path

from orchestration.catalog.checkout import PRODUCTS_FILE
from orchestration.catalog.products import read_products_file
from orchestration.code_servers.watch import LOOKS_PER_LOOK_AT_ALL, Watch


def test_whatever_a_product_is_called_nothing_has_changed_where_nothing_has(
    tmp_path: Path,
) -> None:
    file = tmp_path / PRODUCTS_FILE
    names = ("products", "workspace", "generated")
    for name in names:
        (file.parent / name).mkdir(parents=True)
        (file.parent / name / "recipe.yml").write_text("product: any\n")
    listed = [f"- {{id: {name}, build_command: make}}\n" for name in names]
    file.write_text("".join(["products:\n", *listed]))
    watch = Watch(tmp_path, tmp_path / "deployment.yml")
    watch.take(read_products_file(file).products)
    for _ in range(2 * LOOKS_PER_LOOK_AT_ALL):
        watch.look()
        assert not watch.products_changed()
        assert not watch.generated_changed()
        assert not watch.changed_locations()
