        guard let described = bundle.url(forResource: "manifest", withExtension: "json") else {
            throw __TYPE__Error.missingFile("manifest.json")
        }
        let manifest = try JSONSerialization.jsonObject(with: Data(contentsOf: described)) as? [String: Any]
        let preprocessing = manifest?["preprocessing"] as? [String: Any]
        let missing = preprocessing?["missing"] as? [String] ?? []
        columns = try (preprocessing?["columns"] as? [[String: Any]] ?? []).map { try Column($0, missing) }
